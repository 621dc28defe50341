"""The inference service: trains classifiers, and predicts with them."""
