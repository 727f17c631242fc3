"""The networks: their arithmetic (layers, architecture), their functions (functional), and the Flax modules."""
