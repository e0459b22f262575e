"""Names of noise schedules that a model with temporal layers may be sampled on."""

AUTO, UNCHANGED = "auto", "sdxl"
SCALED_LINEAR, LINEAR = "scaled-linear", "linear"
"""Linear in the square root of beta, and in beta itself."""
NAMED = {
    "scaled-linear 0.00085-0.020": (SCALED_LINEAR, 0.00085, 0.020),
    "scaled-linear 0.00085-0.012": (SCALED_LINEAR, 0.00085, 0.012),
    "linear 0.00085-0.012": (LINEAR, 0.00085, 0.012),
}
"""Choice -> kind, first and last beta."""
CHOICES = (AUTO, UNCHANGED, *NAMED)
"""AUTO takes the schedule that the layers were trained on, UNCHANGED the model's own."""
