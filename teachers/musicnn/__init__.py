"""musicnn: two taggers that were trained on labelled recordings, as a teacher of what a clip as a whole is like."""
