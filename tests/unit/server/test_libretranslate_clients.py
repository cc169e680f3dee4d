"""Clients of LibreTranslate that others wrote work with this server."""

import json
import urllib.error

import pytest
from deep_translator import LibreTranslator
from deep_translator.exceptions import AuthorizationException, ServerException
from libretranslatepy import LibreTranslateAPI

from support.server import KING, WOMEN, served


def test_libretranslatepy_translates_detects_and_lists_languages(server):
    api = LibreTranslateAPI(server.url)
    assert api.translate(KING, "en", "de") == server.translate(KING).json["translatedText"]
    assert api.translate(f"{KING}\n\n{WOMEN}", "auto", "de").count("\n\n") == 1
    assert api.detect(KING)[0]["language"] == "en"
    assert [language["code"] for language in api.languages()] == ["en", "de"]


def test_libretranslatepy_reports_an_error(server):
    with pytest.raises(urllib.error.HTTPError) as error:
        LibreTranslateAPI(server.url).translate(KING, "de", "en")
    assert error.value.code == 400 and "no model translates" in json.loads(error.value.read())["error"]


def test_deep_translator_translates_texts_and_lists(server):
    translator = LibreTranslator(source="en", target="de", api_key="any", custom_url=server.url)
    assert translator.translate(KING) == server.translate(KING).json["translatedText"]
    assert translator.translate_batch([KING, WOMEN]) == server.translate([KING, WOMEN]).json["translatedText"]
    with pytest.raises(ServerException):
        LibreTranslator(source="en", target="fr", api_key="any", custom_url=server.url).translate(KING)


def test_clients_send_their_api_key(exported_models):
    with served(exported_models / "float32", api_keys=["key"]) as server:
        expected = server.translate(KING, api_key="key").json["translatedText"]
        assert LibreTranslateAPI(server.url, "key").translate(KING, "en", "de") == expected
        languages = {"source": "en", "target": "de", "custom_url": server.url}
        assert LibreTranslator(api_key="key", **languages).translate(KING) == expected
        with pytest.raises(AuthorizationException):
            LibreTranslator(api_key="wrong", **languages).translate(KING)
