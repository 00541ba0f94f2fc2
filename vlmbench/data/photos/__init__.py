"""The user's own photos: copy them, deal them into lots, pair them, and make records of them."""
