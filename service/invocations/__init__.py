"""The forms in which clients of MLflow and SageMaker send rows. Nothing here knows of HTTP."""
