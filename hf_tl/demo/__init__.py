"""Web page of a trained model, local or as a Space."""
