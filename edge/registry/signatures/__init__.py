"""Who made a bundle: signatures by key, as cosign and containers/image write and read them."""
