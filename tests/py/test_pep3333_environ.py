"""PEP 3333, the environ: what must be in it, of what type, and what must not. The rules on its keys
hold on every front; those on how our own HTTP parser maps a request hold on the HTTP fronts.
"""

import json

import pytest

from harness.client import chunked

STACK = dict(application="pep3333:application", threads=4)

REQUIRED = [
    "REQUEST_METHOD",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "wsgi.version",
    "wsgi.url_scheme",
    "wsgi.input",
    "wsgi.errors",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
]


def environ(front, method="GET", path="/environ", headers=(), body=None, **rest):
    """The plain part of the environ of a request, and the types of all of it."""
    response = front.request(method, path, headers, body, **rest)
    assert response.status == 200, response
    told = json.loads(response.text)
    return told["plain"], told["types"]


def facts(front):
    return json.loads(front.request("GET", "/environ-object").text)


def test_environ_is_exactly_a_dict(front):
    assert facts(front)["exact dict"]


def test_environ_is_fresh_for_every_request(front):
    with front.connect() as client:
        for _ in range(3):
            told = json.loads(client.request("GET", "/environ-object").text)
            assert told["leftover"] is None
            assert told["version"] == [1, 0]
            plain = json.loads(client.request("GET", "/environ").text)["plain"]
            assert plain["SERVER_NAME"]


@pytest.mark.parametrize("key", REQUIRED)
def test_required_key_is_there(front, key):
    assert key in environ(front)[1]


@pytest.mark.parametrize("key", ["REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"])
def test_required_string_is_never_empty(front, key):
    assert environ(front)[0][key]


def test_server_port_is_a_number(front):
    assert environ(front)[0]["SERVER_PORT"].isdigit()


def test_cgi_values_are_strings(front):
    types = environ(front, headers=[("X-A", "b"), ("Cookie", "c=d")])[1]
    wrong = {key: kind for key, kind in types.items() if key.isupper() and kind != "str"}
    assert not wrong


def test_strings_are_latin_1_only(front):
    path = "/environ-object/%E2%82%AC?%E2%82%AC"
    assert json.loads(front.request("GET", path, [("X-A", "\xff")]).text)["wide"] == []


def test_wsgi_version_is_the_tuple_1_0(front):
    told = facts(front)
    assert (told["version"], told["version type"]) == ([1, 0], "tuple")


def test_url_scheme_is_http(front):
    assert facts(front)["url_scheme"] == "http"


def test_multithread_is_true_with_threads(front):
    assert facts(front)["multithread"] is True


def test_multiprocess_is_false_with_one_worker(front):
    assert facts(front)["multiprocess"] is False


def test_run_once_is_false(front):
    assert facts(front)["run_once"] is False


def test_input_terminated_is_true(front):
    assert facts(front)["input_terminated"] is True


def test_file_wrapper_is_offered(front):
    assert facts(front)["file_wrapper callable"]


def test_own_keys_are_lower_case_with_a_prefix(front):
    assert facts(front)["own keys"] == []


def test_the_process_environment_is_not_in_it(front):
    assert facts(front)["from the process"] == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_method_is_passed_on(front, method):
    assert environ(front, method)[0]["REQUEST_METHOD"] == method


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("method", ["M-SEARCH", "get", "X!#$%&'*+.^_`|~9"])
def test_method_may_be_any_token(front, method):
    assert environ(front, method)[0]["REQUEST_METHOD"] == method


def test_protocol_is_passed_on(front):
    assert environ(front)[0]["SERVER_PROTOCOL"] == "HTTP/1.1"


@pytest.mark.fronts("direct", "uwsgi")
def test_protocol_1_0_is_passed_on(front):
    assert environ(front, version="HTTP/1.0")[0]["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_script_name_is_empty_or_absent(front):
    assert environ(front)[0].get("SCRIPT_NAME", "") == ""


@pytest.mark.parametrize(
    "sent, expected",
    [
        ("/environ/caf%C3%A9", "/environ/caf\u00c3\u00a9"),
        ("/environ/%E9", "/environ/\u00e9"),
        ("/environ/%FF%80", "/environ/\u00ff\u0080"),
        ("/environ/a%20b", "/environ/a b"),
        ("/environ/a+b", "/environ/a+b"),
        ("/environ/a%2Fb", "/environ/a/b"),
        ("/environ/a%3Fb", "/environ/a?b"),
        ("/environ/%25zz", "/environ/%zz"),
        ("/environ/%2525", "/environ/%25"),
        ("/environ/a;b=c,d", "/environ/a;b=c,d"),
        ("/environ/", "/environ/"),
    ],
)
def test_path_info_is_decoded_once_to_latin_1(front, sent, expected):
    assert environ(front, path=sent)[0]["PATH_INFO"] == expected


@pytest.mark.fronts("http")
@pytest.mark.parametrize("path", ["/environ//a", "/environ/./a", "/environ/b/../a"])
def test_path_info_is_not_normalised(front, path):
    assert environ(front, path=path)[0]["PATH_INFO"] == path


@pytest.mark.parametrize(
    "query", ["a=b", "a=%C3%A9&b=+%2F", "a?b?c", "%", "a=b&a=c", "[]={}|", "a=%00"]
)
def test_query_string_stays_encoded(front, query):
    plain = environ(front, path="/environ?" + query)[0]
    assert (plain["QUERY_STRING"], plain["PATH_INFO"]) == (query, "/environ")


@pytest.mark.parametrize("path", ["/environ", "/environ?"])
def test_query_string_may_be_empty(front, path):
    assert environ(front, path=path)[0].get("QUERY_STRING", "") == ""


def test_request_uri_is_the_raw_target(front):
    path = "/environ/%E9//x?%E9=%2F"
    assert environ(front, path=path)[0]["REQUEST_URI"] == path


@pytest.mark.fronts("http")
def test_raw_uri_is_the_raw_target(front):
    path = "/environ/%E9?%E9=%2F"
    assert environ(front, path=path)[0]["RAW_URI"] == path


def test_header_fields_become_http_keys(front):
    headers = [("X-One-Two", "a b"), ("x-lower", "c"), ("User-Agent", "test/1"), ("X-0", "d")]
    plain = environ(front, headers=headers)[0]
    keys = ("HTTP_X_ONE_TWO", "HTTP_X_LOWER", "HTTP_USER_AGENT", "HTTP_X_0")
    found = [plain[key] for key in keys]
    assert found == ["a b", "c", "test/1", "d"]


def test_header_values_are_latin_1(front):
    value = "caf\u00e9 \u00ff"
    assert environ(front, headers=[("X-A", value)])[0]["HTTP_X_A"] == value


def test_header_values_are_trimmed(front):
    assert environ(front, headers=[("X-A", "   a\t b   ")])[0]["HTTP_X_A"] == "a\t b"


@pytest.mark.fronts("http")
def test_header_values_are_trimmed_of_tabs_too(front):
    assert environ(front, headers=[("X-A", " \t a\t b \t ")])[0]["HTTP_X_A"] == "a\t b"


@pytest.mark.fronts("direct")
def test_empty_header_value_is_kept(front):
    assert environ(front, headers=[("X-A", "")])[0]["HTTP_X_A"] == ""


def test_host_is_passed_on(front):
    assert environ(front, host="Example.org:8080")[0]["HTTP_HOST"] == "Example.org:8080"


def test_repeated_header_fields_are_joined_by_comma(front):
    headers = [("X-A", "one"), ("X-B", "other"), ("x-a", "two"), ("X-A", "three")]
    plain = environ(front, headers=headers)[0]
    assert [part.strip(" ") for part in plain["HTTP_X_A"].split(",")] == ["one", "two", "three"]
    assert plain["HTTP_X_B"] == "other"


def test_repeated_cookies_are_joined_by_semicolon(front):
    plain = environ(front, headers=[("Cookie", "a=1"), ("X-B", "b"), ("Cookie", "c=2; d=3")])[0]
    assert plain["HTTP_COOKIE"] == "a=1; c=2; d=3"


def test_content_type_and_length_have_no_http_prefix(front):
    headers = [("Content-Type", "text/x-test; a=b")]
    plain = environ(front, "POST", headers=headers, body=b"12345")[0]
    assert (plain["CONTENT_TYPE"], plain["CONTENT_LENGTH"]) == ("text/x-test; a=b", "5")
    assert "HTTP_CONTENT_TYPE" not in plain
    assert "HTTP_CONTENT_LENGTH" not in plain


def test_absent_content_facts_are_left_out(front):
    plain = environ(front)[0]
    assert "CONTENT_TYPE" not in plain
    assert "CONTENT_LENGTH" not in plain


def test_empty_body_has_length_zero(front):
    assert environ(front, "POST", body=b"")[0]["CONTENT_LENGTH"] == "0"


def test_gathered_chunked_body_has_a_content_length(front):
    body = chunked(b"hello ", b"world")
    headers = [("Transfer-Encoding", "chunked")]
    assert environ(front, "POST", headers=headers, body=body)[0]["CONTENT_LENGTH"] == "11"


def test_transfer_encoding_is_not_in_it(front):
    """Bottle, for one, decodes chunks itself when it sees the header; they are gone by then."""
    headers = [("Transfer-Encoding", "chunked")]
    plain = environ(front, "POST", headers=headers, body=chunked(b"hello"))[0]
    assert "HTTP_TRANSFER_ENCODING" not in plain


def test_absent_facts_are_left_out(front):
    plain = environ(front)[0]
    for key in ("REMOTE_USER", "AUTH_TYPE", "REMOTE_HOST", "REMOTE_IDENT", "PATH_TRANSLATED"):
        assert key not in plain


def test_header_names_with_underscore_are_dropped(front):
    plain = environ(front, headers=[("X_A", "evil"), ("X_B", "evil"), ("X-A", "good")])[0]
    assert plain["HTTP_X_A"] == "good"
    assert "HTTP_X_B" not in plain


@pytest.mark.fronts("http")
@pytest.mark.parametrize("name", ["Proxy", "PROXY", "proxy"])
def test_proxy_header_is_dropped(front, name):
    assert "HTTP_PROXY" not in environ(front, headers=[(name, "http://evil.example")])[0]


@pytest.mark.fronts("direct-http-tcp", "uwsgi")
def test_remote_address_is_the_peers(front):
    plain = environ(front, headers=[("X-Forwarded-For", "203.0.113.9")])[0]
    assert plain["REMOTE_ADDR"] == "127.0.0.1"
    assert plain["REMOTE_PORT"].isdigit()


@pytest.mark.fronts("direct-http-unix", "nginx-proxy-unix")
def test_forwarded_for_is_passed_on_and_never_obeyed(front):
    plain = environ(front, headers=[("X-Forwarded-For", "203.0.113.9")])[0]
    assert plain["HTTP_X_FORWARDED_FOR"].startswith("203.0.113.9")
    assert "203.0.113.9" not in plain.get("REMOTE_ADDR", "")


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("told, scheme", [("https", "https"), ("http", "http"), ("gopher", "http")])
def test_trusted_peer_sets_the_scheme(front, told, scheme):
    response = front.request("GET", "/environ-object", [("X-Forwarded-Proto", told)])
    assert json.loads(response.text)["url_scheme"] == scheme


@pytest.mark.fronts("direct")
def test_absolute_form_target(front):
    path = "http://other.example:81/environ/x?y"
    plain = environ(front, path=path, host="localhost")[0]
    assert (plain["PATH_INFO"], plain["QUERY_STRING"]) == ("/environ/x", "y")
    assert plain["HTTP_HOST"] == "other.example:81"


@pytest.mark.fronts("direct")
def test_asterisk_form_target(front):
    response = front.request("OPTIONS", "*")
    assert (response.status, response.body) == (200, b"read 0")


@pytest.mark.fronts("direct")
def test_nothing_is_left_from_the_request_before(front):
    with front.connect() as client:
        headers = [("X-Secret", "s"), ("Cookie", "c=d"), ("Content-Type", "text/x")]
        client.request("POST", "/environ?query", headers, b"body")
        plain = json.loads(client.request("GET", "/environ").text)["plain"]
    left = {"HTTP_X_SECRET", "HTTP_COOKIE", "CONTENT_TYPE", "CONTENT_LENGTH"} & set(plain)
    assert (left, plain.get("QUERY_STRING", "")) == (set(), "")


def test_values_that_change_are_never_those_of_another_request(front):
    with front.connect() as client:
        for number in range(100):
            headers = [("X-Number", str(number)), ("Cookie", f"n={number % 3}"), ("X-Same", "s")]
            path = f"/environ/{number % 7}?{number}"
            plain = json.loads(client.request("GET", path, headers).text)["plain"]
            assert plain["HTTP_X_NUMBER"] == str(number)
            assert plain["HTTP_COOKIE"] == f"n={number % 3}"
            assert plain["PATH_INFO"] == f"/environ/{number % 7}"
            assert plain["QUERY_STRING"] == str(number)


def test_server_software_names_the_server(front):
    assert environ(front)[0]["SERVER_SOFTWARE"].startswith("ringhorn")


def test_request_id_is_there_and_differs(front):
    ids = {environ(front)[0]["ringhorn.request_id"] for _ in range(5)}
    assert len(ids) == 5 and all(ids)


def test_single_thread_and_many_workers_are_told(start):
    server = start("pep3333:application", workers=2, threads=1)
    told = json.loads(server.request("GET", "/environ-object").text)
    assert (told["multithread"], told["multiprocess"]) == (False, True)


def test_untrusted_peer_does_not_set_the_scheme(start):
    server = start("pep3333:application", options=["--forwarded-allow-ips", "192.0.2.1"])
    response = server.request("GET", "/environ-object", [("X-Forwarded-Proto", "https")])
    assert json.loads(response.text)["url_scheme"] == "http"
