"""Music to train on: folders, manifests, datasets, prepared stores, generators and mixtures of them."""
