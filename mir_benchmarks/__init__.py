"""The benchmark of 14 music information retrieval tasks: datasets, runs, statistics, reports, synthetic music."""
