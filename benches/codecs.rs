//! Micro-benches of the codecs: what one request costs before anything else happens to it.
//!
//! `cargo bench --bench codecs`. The heads are those of a benchmark client (wrk), of a browser, and
//! of nginx's `uwsgi_pass`; figures belong into a commit message with machine and spread.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringhorn::protocol::Parsed;
use ringhorn::protocol::http1::{
    ChunkDecoder, ChunkStep, FieldTable, HeadLimits, HeadScan, parse_head, percent_decode,
};
use ringhorn::protocol::uwsgi::{parse_packet, request_head};

const WRK: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";

const BROWSER: &[u8] = b"GET /articles/2026/11/io-uring?page=2&sort=date HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://www.example.org/articles\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: sessionid=0123456789abcdef0123456789abcdef; \
    csrftoken=0123456789abcdef0123456789abcdef\r\n\
    X-Forwarded-For: 203.0.113.9\r\n\
    X-Forwarded-Proto: https\r\n\
    \r\n";

const NGINX: &[(&str, &str)] = &[
    ("QUERY_STRING", "page=2"),
    ("REQUEST_METHOD", "GET"),
    ("CONTENT_TYPE", ""),
    ("CONTENT_LENGTH", ""),
    ("REQUEST_URI", "/articles/2026/11/io-uring?page=2"),
    ("PATH_INFO", "/articles/2026/11/io-uring"),
    ("DOCUMENT_ROOT", "/usr/share/nginx/html"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REQUEST_SCHEME", "http"),
    ("REMOTE_ADDR", "203.0.113.9"),
    ("REMOTE_PORT", "40404"),
    ("SERVER_PORT", "80"),
    ("SERVER_NAME", "www.example.org"),
    ("HTTP_HOST", "www.example.org"),
    ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"),
    ("HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br, zstd"),
    ("HTTP_ACCEPT_LANGUAGE", "en-GB,en;q=0.9,de;q=0.8"),
    ("HTTP_COOKIE", "sessionid=0123456789abcdef0123456789abcdef"),
];

fn http1_heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http1_head");
    for (name, head) in [("wrk", WRK), ("browser", BROWSER)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (mut scan, mut table) = (HeadScan::default(), FieldTable::new());
                let bytes = black_box(head);
                match parse_head(bytes, &mut scan, &HeadLimits::DEFAULT, &mut table) {
                    Parsed::Head(head) => black_box((head.head_bytes, head.fields.len())),
                    other => panic!("{other:?}"),
                }
            });
        });
    }
    group.finish();
}

fn chunked_bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http1_chunked");
    for (name, chunk_bytes, chunks) in [("16_byte_chunks", 16, 256), ("16_kib_chunks", 16_384, 16)]
    {
        let chunk = format!("{chunk_bytes:x}\r\n{}\r\n", "x".repeat(chunk_bytes));
        let body = chunk.repeat(chunks) + "0\r\n\r\n";
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (mut decoder, mut rest) = (ChunkDecoder::new(), black_box(body.as_bytes()));
                loop {
                    match decoder.step(rest) {
                        Ok((_, ChunkStep::End)) => break,
                        Ok((consumed, step)) => {
                            black_box(step);
                            rest = &rest[consumed..];
                        }
                        Err(rejection) => panic!("{rejection:?}"),
                    }
                }
            });
        });
    }
    group.finish();
}

fn percent_decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("percent_decode");
    for (name, path) in [
        ("plain", &b"/articles/2026/11/io-uring"[..]),
        ("escaped", b"/artikel/%C3%BCber%20die%20Br%C3%BCcke"),
    ] {
        group.throughput(Throughput::Bytes(path.len() as u64));
        group.bench_function(name, |bencher| {
            let mut out = [0; 256];
            bencher.iter(|| black_box(percent_decode(black_box(path), &mut out).is_ok()));
        });
    }
    group.finish();
}

fn uwsgi_packets(criterion: &mut Criterion) {
    let mut variables = Vec::new();
    for part in NGINX.iter().flat_map(|(key, value)| [key, value]) {
        variables.extend_from_slice(&(part.len() as u16).to_le_bytes());
        variables.extend_from_slice(part.as_bytes());
    }
    let mut packet = vec![0];
    packet.extend_from_slice(&(variables.len() as u16).to_le_bytes());
    packet.push(0);
    packet.extend_from_slice(&variables);
    let mut group = criterion.benchmark_group("uwsgi");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function("nginx_packet", |bencher| {
        bencher.iter(|| match parse_packet(black_box(&packet)) {
            Parsed::Head(packet) => match request_head(&packet) {
                Ok(head) => black_box((packet.consumed, head.method.len())),
                Err(rejection) => panic!("{rejection:?}"),
            },
            other => panic!("{other:?}"),
        });
    });
    group.finish();
}

criterion_group!(codecs, http1_heads, chunked_bodies, percent_decoding, uwsgi_packets);
criterion_main!(codecs);
