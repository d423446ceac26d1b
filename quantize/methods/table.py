"""The methods, by name."""

from holdover.quantize.method import Method
from holdover.quantize.methods.dynamic_int8 import dynamic_int8
from holdover.quantize.methods.float16 import float16
from holdover.quantize.methods.int16 import int16
from holdover.quantize.methods.static_int8 import static_int8
from holdover.quantize.methods.step_int8 import step_int8
from holdover.quantize.methods.weights_int8 import weights_int8

METHODS: dict[str, Method] = {
    "weights-int8": weights_int8,
    "static-int8": static_int8,
    "step-int8": step_int8,
    "int16": int16,
    "dynamic-int8": dynamic_int8,
    "float16": float16,
}
AUTO = ("weights-int8", "static-int8", "step-int8", "int16")
"""What `auto` tries; the others are for those who ask for them."""
