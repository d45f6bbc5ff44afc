"""The contract, its values and its errors: what every transform is."""
