"""ONNX graphs of models, written from configuration and weights without torch: `write.py` is the page to read first."""
