"""The AsyncAPI document as the tools of a client use it: which message a payload is."""

from typing import Any

from jsonschema import Draft7Validator


class Contract:
    """Contract of ``/asyncapi.json``: tells the type of a payload by that document alone."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        (self.channel,) = document["channels"].values()
        # The document around each schema: its references point into it.
        self._validators = {
            name: Draft7Validator({**document, "$ref": f"#/components/messages/{name}/payload"})
            for name in self.channel["messages"]
        }

    def kinds(self, payload: object) -> list[str]:
        """The names of the messages that the payload can be; one, if it is any."""
        return [name for name, validator in self._validators.items() if validator.is_valid(payload)]
