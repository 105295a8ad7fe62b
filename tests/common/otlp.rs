//! Small OTLP batches.

use serde_json::{Value, json};

/// A trace id.
pub fn trace(n: u32) -> String {
    format!("{n:032x}")
}

/// A span id.
pub fn span_id(n: u32) -> String {
    format!("{n:016x}")
}

/// A span in OTLP JSON, to be completed.
#[derive(Clone)]
pub struct Span(Value);

/// Span `id` of trace `trace`, which starts `id` nanoseconds after 2025-10-31.
pub fn span(trace_number: u32, id: u32) -> Span {
    let start = 1_761_868_800_000_000_000 + u64::from(id);
    Span(json!({
        "traceId": trace(trace_number), "spanId": span_id(id), "name": "litellm_request",
        "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 1_000_000_000).to_string(),
        "attributes": [],
    }))
}

impl Span {
    /// Sets a field of the span, whatever it is.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0[field] = value.into();
        self
    }

    /// Adds a string attribute.
    pub fn attribute(mut self, key: &str, text: &str) -> Self {
        let attributes = self.0["attributes"].as_array_mut().expect("a list");
        attributes.push(json!({"key": key, "value": {"stringValue": text}}));
        self
    }

    /// Adds content.
    pub fn input(self, text: &str) -> Self {
        self.attribute("input.value", text)
    }

    pub fn json(&self) -> String {
        self.0.to_string()
    }
}

/// One document with these spans.
pub fn document(spans: &[Span]) -> String {
    let spans: Vec<_> = spans.iter().map(|span| &span.0).collect();
    json!({"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "litellm"}, "spans": spans}]}]})
        .to_string()
}

/// One document around a span that is given as text, so that it may hold what no JSON value can.
pub fn document_around(span: &[u8]) -> Vec<u8> {
    [br#"{"resourceSpans":[{"scopeSpans":[{"spans":["#, span, b"]}]}]}"].concat()
}

/// A span as text whose content stands in a string literal that is given as it is.
pub fn span_with_literal(trace_number: u32, literal: &[u8]) -> Vec<u8> {
    let head = span(trace_number, 1).json();
    let head = head.replace(r#""attributes":[]"#, r#""attributes":[{"key":"input.value","value":{"stringValue":"#);
    let (before, after) = head.split_at(head.find(r#"{"stringValue":"#).expect("it stands there") + 15);
    [before.as_bytes(), b"\"", literal, b"\"}}]", after.as_bytes()].concat()
}

/// One span in one document of OTLP protobuf, with one content attribute.
pub fn protobuf(trace_number: u32, id: u32, text: &str) -> Vec<u8> {
    let start = 1_761_868_800_000_000_000 + u64::from(id);
    let value = field(1, text.as_bytes());
    let attribute = [field(1, b"input.value"), field(2, &value)].concat();
    let span = [
        field(1, &u128::from(trace_number).to_be_bytes()),
        field(2, &u64::from(id).to_be_bytes()),
        field(5, b"litellm_request"),
        fixed64(7, start),
        fixed64(8, start + 1_000_000_000),
        field(9, &attribute),
    ];
    // ExportTraceServiceRequest ▷ ResourceSpans ▷ ScopeSpans ▷ Span
    field(1, &field(2, &field(2, &span.concat())))
}

/// A field of protobuf.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn fixed64(number: u8, value: u64) -> Vec<u8> {
    [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
}
