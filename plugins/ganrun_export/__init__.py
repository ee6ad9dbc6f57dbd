"""Hand over: a trained model as a folder that can be used elsewhere."""
