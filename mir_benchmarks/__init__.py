"""The 14 music information retrieval tasks."""
