"""What a trained network is used for elsewhere. It reads run folders and does not train."""
