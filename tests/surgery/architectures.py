"""Networks that nobody here wrote, small, built from their configuration with random weights."""

import transformers


def resnet():
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], num_labels=5
        )
    )


def regnet():
    return transformers.RegNetForImageClassification(
        transformers.RegNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], groups_width=8, num_labels=5
        )
    )


def mobilenet_v2():
    return transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=64, num_labels=5)
    )


def efficientnet():
    return transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(
            image_size=64,
            width_coefficient=0.5,
            depth_coefficient=0.5,
            hidden_dim=640,
            num_labels=5,
        )
    )


def levit():
    return transformers.LevitForImageClassificationWithTeacher(
        transformers.LevitConfig(
            image_size=64,
            hidden_sizes=[32, 48, 64],
            num_attention_heads=[2, 3, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            num_labels=5,
        )
    )


ALL = {f.__name__: f for f in (resnet, regnet, mobilenet_v2, efficientnet, levit)}
