"""A model in, a smaller one out: fewer bits a weight, fewer weights, fewer heads."""
