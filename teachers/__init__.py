"""What the student must predict: acoustic and musical teachers."""
