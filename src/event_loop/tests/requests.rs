//! Requests that go well.

use super::stage::{Stage, UWSGI, packet, response};

fn text(body: &[u8]) -> &str {
    std::str::from_utf8(body).unwrap()
}

#[test]
fn answers_and_keeps_the_connection() {
    let mut stage = Stage::calm();
    let client = stage.http(b"GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    let (status, head, body, rest) = response(&client.take_received());
    assert_eq!((status, text(&body)), (200, "path=/a b query=x=1 length=- body=0 broken=false"));
    assert!(!head.contains("Connection: close") && rest.is_empty());
    client.send(b"GET /second HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stage.settle();
    let (_, head, body, _) = response(&client.received());
    assert!(text(&body).starts_with("path=/second"), "{body:?}");
    assert!(head.contains("Connection: close") && client.sees_close() && !client.was_reset());
    stage.finish();
}

#[test]
fn answers_at_every_split() {
    let request = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    for place in 0..=request.len() {
        let mut stage = Stage::calm();
        let client = stage.http(b"");
        client.send_cut(request, &[place]);
        stage.settle();
        let (status, _, body, rest) = response(&client.received());
        let expected = "path=/p query= length=5 body=5 broken=false";
        assert_eq!((status, text(&body), rest.len()), (200, expected, 0), "split at {place}");
        stage.finish();
    }
}

#[test]
fn serves_pipelined_requests_in_order() {
    let mut stage = Stage::calm();
    let one = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok";
    let mut both = one.to_vec();
    both.extend_from_slice(b"GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let client = stage.http(&both);
    stage.settle();
    let mut bytes = client.received();
    for path in ["/1", "/2", "/3"] {
        let (status, _, body, rest) = response(&bytes);
        assert!(status == 200 && text(&body).contains(&format!("path={path} ")), "{path}");
        bytes = rest;
    }
    assert!(bytes.is_empty() && client.sees_close());
    stage.finish();
}

#[test]
fn closes_behind_a_uwsgi_answer() {
    let mut stage = Stage::calm();
    let bytes = packet(&[
        ("QUERY_STRING", "q"),
        ("REQUEST_METHOD", "GET"),
        ("CONTENT_LENGTH", ""),
        ("PATH_INFO", "/u"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
    ]);
    let client = stage.sim.connect(UWSGI, &bytes);
    stage.settle();
    let (status, head, body, _) = response(&client.received());
    assert_eq!((status, text(&body)), (200, "path=/u query=q length=- body=0 broken=false"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("Connection"));
    assert!(client.sees_close() && !client.was_reset());
    stage.finish();
}

#[test]
fn answers_a_uwsgi_ping() {
    let mut stage = Stage::calm();
    let client = stage.sim.connect(UWSGI, &[100, 0, 0, 0]);
    stage.settle();
    assert_eq!(client.received(), [100, 0, 0, 1]);
    stage.finish();
}

#[test]
fn sends_a_response_larger_than_the_ring() {
    let mut stage = Stage::calm();
    let client = stage.http(b"GET /big/300000 HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    let (status, _, body, rest) = response(&client.take_received());
    assert_eq!((status, body.len(), rest.len()), (200, 300_000, 0));
    client.send(b"GET /again HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.finish();
}

#[test]
fn ends_a_response_without_a_length_by_chunks_or_by_closing() {
    let mut stage = Stage::calm();
    let client = stage.http(b"GET /endless/70000 HTTP/1.1\r\nHost: h\r\n\r\n");
    let old = stage.http(b"GET /endless/70000 HTTP/1.0\r\n\r\n");
    stage.settle();
    let (_, head, body, _) = response(&client.received());
    assert!(head.contains("Transfer-Encoding: chunked") && body.ends_with(b"\r\n0\r\n\r\n"));
    assert!(!client.sees_close());
    let (_, head, body, _) = response(&old.received());
    assert!(!head.contains("chunked") && body.len() == 70_000 && old.sees_close());
    stage.finish();
}

#[test]
fn never_ends_a_short_response_so_that_it_looks_whole() {
    let mut stage = Stage::calm();
    let client = stage.http(b"GET /cut/1000 HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    let (_, head, body, _) = response(&client.received());
    assert!(head.contains("Content-Length: 1000") && body.len() == 500);
    assert!(client.sees_close());
    assert_eq!(stage.counters.replies_broken.read(), 1);
    stage.finish();
}

#[test]
fn joins_repeated_uwsgi_keys_however_many_there_are() {
    for extra in [0, 1_000] {
        let mut stage = Stage::calm();
        let names: Vec<String> = (0..extra).map(|n| format!("X{n}")).collect();
        let mut variables = vec![
            ("REQUEST_METHOD", "GET"),
            ("PATH_INFO", "/environ/HTTP_COOKIE/HTTP_X_THING/HTTP_X_FORWARDED_FOR/REMOTE_USER"),
            ("HTTP_COOKIE", "a=1"),
            ("HTTP_X_THING", "one"),
            ("HTTP_X_FORWARDED_FOR", "1.1.1.1"),
            ("REMOTE_USER", "first"),
            ("HTTP_X_THING", "two"),
            ("HTTP_COOKIE", "b=2"),
            ("HTTP_X_FORWARDED_FOR", "2.2.2.2"),
            ("REMOTE_USER", "last"),
            ("HTTP_X_OTHER", "x"),
        ];
        variables.extend(names.iter().map(|name| (name.as_str(), "v")));
        let client = stage.sim.connect(UWSGI, &packet(&variables));
        stage.settle();
        let body = response(&client.received()).2;
        assert_eq!(text(&body), "a=1; b=2|one, two|1.1.1.1, 2.2.2.2|last|", "{extra} more");
        stage.finish();
    }
}
