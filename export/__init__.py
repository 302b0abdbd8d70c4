"""From a run folder to an ONNX file that scores the same, and says what it is."""
