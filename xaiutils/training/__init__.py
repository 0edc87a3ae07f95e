"""Training by recipe: `train`, and the classification report of what it made."""

from xaiutils.training.callback import Callback, StopTraining
from xaiutils.training.checks import recipe_warnings
from xaiutils.training.predictions import (
    Report,
    classification_report,
    clear_example,
    multi_label_report,
    regression_report,
)
from xaiutils.training.recipe import Recipe
from xaiutils.training.recipes import RECIPES, read_recipe, recipe_differences
from xaiutils.training.stages import train
from xaiutils.training.toy_problem import toy_optimisers

__all__ = [
    "RECIPES",
    "Callback",
    "Recipe",
    "Report",
    "StopTraining",
    "classification_report",
    "clear_example",
    "default_recipe",
    "multi_label_report",
    "read_recipe",
    "recipe_differences",
    "recipe_warnings",
    "regression_report",
    "toy_optimisers",
    "train",
]


def default_recipe(weights: str | None, head: str = "linear") -> str:
    """The recipe that suits a model's start: "modern" on pretrained weights, else "scratch"; the head "where_and_what"
    has its own."""
    if head == "where_and_what":
        return head
    return "modern" if weights else "scratch"
