"""Source separation: Open-Unmix's network on frozen features, its spectra, filter and scores."""
