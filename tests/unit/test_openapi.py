"""The OpenAPI document: valid, and of everything that is served."""

import json
import re
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tornado.web import RequestHandler

from kernelsvc.api.base import ApiContext
from kernelsvc.api.openapi import METHODS
from kernelsvc.api.operations import declared
from kernelsvc.api.problems import STATUS
from kernelsvc.api.routes import ROUTES, document, make_application

SERVED = [
    (path, method, handler)
    for path, handler in ROUTES.items()
    for method in METHODS
    if getattr(handler, method) is not getattr(RequestHandler, method)
]
OPERATIONS = {
    (path, method): said
    for path, ways in document()["paths"].items()
    for method, said in ways.items()
}


def test_the_document_is_valid_openapi():
    OpenAPIV31SpecValidator(document()).validate()


@pytest.mark.parametrize(("path", "method", "handler"), SERVED)
def test_every_method_is_declared_and_in_the_document(path, method, handler):
    assert declared(getattr(handler, method)) is not None
    said = document()["paths"][path][method]
    assert re.findall(r"\{(\w+)\}", path) == [
        each["name"] for each in said["parameters"] if each["in"] == "path"
    ]
    assert said["summary"]


def test_nothing_is_in_the_document_that_is_not_served():
    found = {(path, method) for path, ways in document()["paths"].items() for method in ways}
    assert found == {(path, method) for path, method, _ in SERVED}


def test_every_path_of_the_document_is_routed_to_its_handler():
    rules: list[Any] = make_application(cast(ApiContext, None)).wildcard_router.rules
    for path, handler in ROUTES.items():
        url = re.sub(r"\{\w+\}", "x", path)
        assert next(rule.target for rule in rules if rule.matcher.regex.match(url)) is handler


def test_every_operation_has_an_example():
    without = [
        f"{handler.__name__}.{method}"
        for _, method, handler in SERVED
        if (operation := declared(getattr(handler, method))) is not None and operation.shown is None
    ]
    assert not without, "say example=Example({...}) in their @operation"
    for (path, method), said in OPERATIONS.items():
        for parameter in said["parameters"]:
            assert "example" in parameter or parameter["in"] != "path", parameter
        for content in said.get("requestBody", {}).get("content", {}).values():
            assert content["examples"], f"{method} {path}"


def test_an_example_is_as_the_schema_of_its_place_asks():
    for said in OPERATIONS.values():
        bodies = [said.get("requestBody", {}), *said["responses"].values()]
        for content in (each for body in bodies for each in body.get("content", {}).values()):
            for example in content.get("examples", {}).values():
                if "schema" in content:
                    schema = {**content["schema"], "components": document()["components"]}
                    Draft202012Validator(schema).validate(example["value"])
        for parameter in said["parameters"]:
            if isinstance(example := parameter.get("example"), str):
                schema = parameter["schema"]
                is_text = schema.get("type", "string") == "string"
                value = example if is_text else json.loads(example)
                Draft202012Validator(schema).validate(value)


def test_every_error_that_can_be_answered_is_said_of_some_operation():
    said = json.dumps(document()["paths"])
    for error, status in STATUS.items():
        assert f"`{error.code}`" in said, error
        assert f'"{status.value}"' in said


def test_operations_have_names_of_their_own():
    names = [said["operationId"] for ways in document()["paths"].values() for said in ways.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("model", "field", "expected"),
    [
        ("CreateSession", "default_timeout", {"type": "number", "exclusiveMinimum": 0}),
        ("Limits", "processes", {"type": "integer", "exclusiveMinimum": 0, "maximum": 1 << 62}),
    ],
)
def test_what_a_validator_asks_for_is_in_the_schema(model, field, expected):
    properties = document()["components"]["schemas"][model]["properties"]
    assert expected in properties[field]["anyOf"]
