"""The files of a run folder: `train` writes them; evaluation, studies and reports read them."""

RECIPE = "recipe.yaml"
CLASSES = "classes.json"
ENCODER = "encoder.safetensors"
CLASSIFIER = "classifier.safetensors"
METRICS = "metrics.jsonl"
ENVIRONMENT = "environment.json"
RESULT = "result.json"
