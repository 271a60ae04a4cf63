"""What heads read from features: classes, tags, values and beats of recordings, without torch."""
