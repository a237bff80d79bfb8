"""Networks that nobody here wrote, small, built from their configuration with random weights."""

import pytest


def built(name, **options):
    """Build a model for images by its name in `transformers`; nothing is downloaded."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**options, num_labels=5)
    suffix = "WithTeacher" if name == "Levit" else ""
    return getattr(transformers, f"{name}ForImageClassification{suffix}")(config)


def resnet():
    return built("ResNet", embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2])


def regnet():
    return built("RegNet", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8)


def mobilenet_v2():
    return built("MobileNetV2", depth_multiplier=0.35, image_size=64)


def efficientnet():
    return built(
        "EfficientNet", image_size=64, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640
    )


def levit():
    return built(
        "Levit",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    )


ALL = {f.__name__: f for f in (resnet, regnet, mobilenet_v2, efficientnet, levit)}
