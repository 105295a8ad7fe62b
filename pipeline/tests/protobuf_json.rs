//! OTLP protobuf as OTLP JSON, compared with what the `opentelemetry-proto` crate reads from that JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use gravity_pipeline::otlp::protobuf_json::{LOG, Losses, RESOURCE_GROUP, SCOPE_GROUP, SPAN, Schema, write_members};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

fn json(schema: &Schema, bytes: &[u8]) -> Result<(String, Losses), String> {
    let (mut out, mut losses) = (b"{".to_vec(), Losses::default());
    write_members(schema, bytes, &mut out, &mut losses).map_err(|e| e.reason)?;
    out.push(b'}');
    Ok((String::from_utf8(out).unwrap(), losses))
}

/// What a message is in JSON, of which nothing is lost.
fn whole(schema: &Schema, message: &impl Message) -> String {
    let (json, losses) = json(schema, &message.encode_to_vec()).unwrap();
    assert!(losses.is_none(), "{losses:?}");
    json
}

#[test]
fn every_kind_of_value_is_written_as_the_specification_says() {
    let value = |value| Some(AnyValue { value: Some(value) });
    let pair = |key: &str, v| KeyValue { key: key.into(), value: value(v), ..KeyValue::default() };
    let span = Span {
        trace_id: (0..16).collect(),
        span_id: vec![0xff; 8],
        kind: span::SpanKind::Client as i32,
        start_time_unix_nano: u64::MAX,
        flags: 256,
        dropped_links_count: u32::MAX,
        attributes: vec![
            pair("int", Value::IntValue(i64::MIN)),
            pair("text", Value::StringValue("\u{1}\"ü\u{1f600}".into())),
            pair("bytes", Value::BytesValue(vec![0xfb, 0xff])),
            pair(
                "doubles",
                Value::ArrayValue(ArrayValue {
                    values: [1.5, 1e300, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
                        .map(|number| AnyValue { value: Some(Value::DoubleValue(number)) })
                        .to_vec(),
                }),
            ),
            pair("list", Value::KvlistValue(KeyValueList { values: vec![pair("no", Value::BoolValue(false))] })),
            pair("empty", Value::ArrayValue(ArrayValue { values: vec![] })),
            KeyValue { key: "none".into(), value: Some(AnyValue { value: None }), ..KeyValue::default() },
        ],
        status: Some(Status { code: 2, message: "no".into() }),
        ..Span::default()
    };
    let expected = r#"{
        "traceId":"000102030405060708090a0b0c0d0e0f","spanId":"ffffffffffffffff","flags":256,"kind":3,
        "startTimeUnixNano":"18446744073709551615","attributes":[
            {"key":"int","value":{"intValue":"-9223372036854775808"}},
            {"key":"text","value":{"stringValue":"\u0001\"ü😀"}},
            {"key":"bytes","value":{"bytesValue":"+/8="}},
            {"key":"doubles","value":{"arrayValue":{"values":[
                {"doubleValue":1.5},{"doubleValue":1e300},{"doubleValue":-0.0},
                {"doubleValue":"NaN"},{"doubleValue":"Infinity"},{"doubleValue":"-Infinity"}]}}},
            {"key":"list","value":{"kvlistValue":{"values":[{"key":"no","value":{"boolValue":false}}]}}},
            {"key":"empty","value":{"arrayValue":{}}},
            {"key":"none","value":{}}],
        "droppedLinksCount":4294967295,"status":{"message":"no","code":2}}"#;
    let expected: String = expected.lines().map(str::trim_start).collect();
    assert_eq!(whole(&SPAN, &span), expected);
}

#[test]
fn fields_in_any_order_come_out_in_one() {
    let attribute = |key: &[u8]| field(9, &field(1, key));
    let backwards = [attribute(b"a"), attribute(b"b"), field(5, b"name"), field(2, &[1])].concat();
    let (json, losses) = json(&SPAN, &backwards).unwrap();
    assert_eq!(json, r#"{"spanId":"01","name":"name","attributes":[{"key":"a"},{"key":"b"}]}"#);
    assert!(losses.is_none());
}

#[test]
fn what_json_cannot_say_is_counted() {
    let counted = |bytes: &[u8]| json(&SPAN, bytes).unwrap();
    // Field 100, a name that is a number, and one of the third kind in an attribute's value.
    let bytes = [&[0xa2, 0x06, 1, b'x', 0x28, 7][..], &[0x4a, 7, 0x0a, 1, b'k', 0x12, 2, 0x40, 5]].concat();
    let expected = Losses { unknown_fields: 3, ..Losses::default() };
    assert_eq!(counted(&bytes), (r#"{"attributes":[{"key":"k","value":{}}]}"#.into(), expected));
    // Two names; a value that is a boolean, and then a number.
    let bytes = [&[0x2a, 1, b'a', 0x2a, 1, b'b'][..], &[0x4a, 6, 0x12, 4, 0x10, 1, 0x18, 9]].concat();
    let expected = Losses { repeated: 2, ..Losses::default() };
    let text = r#"{"name":"b","attributes":[{"value":{"intValue":"9"}}]}"#;
    assert_eq!(counted(&bytes), (text.into(), expected));
    let expected = Losses { texts: 1, ..Losses::default() };
    assert_eq!(counted(&[0x2a, 3, b'a', 0xff, b'b']), ("{\"name\":\"a\u{fffd}b\"}".into(), expected));
}

#[test]
fn nesting_is_followed_so_deep_and_no_deeper() {
    let nested = |levels: usize| {
        let mut value = AnyValue { value: Some(Value::BoolValue(true)) };
        for _ in 0..levels {
            value = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })) };
        }
        KeyValueList { values: vec![KeyValue { value: Some(value), ..KeyValue::default() }] }
    };
    // The fields of a list of attributes are numbered as those of a resource's.
    let resource = |levels| field(1, &nested(levels).encode_to_vec());
    assert!(json(&RESOURCE_GROUP, &resource(50)).is_ok());
    assert_eq!(json(&RESOURCE_GROUP, &resource(70)).unwrap_err(), "not OTLP protobuf: nested too deeply");
    // As deep as bytes can be.
    let mut bytes = vec![];
    for _ in 0..5000 {
        bytes = field(5, &field(1, &bytes));
    }
    assert!(json(&LOG, &field(5, &bytes)).is_err());
}

/// A field with these bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    prost::encode_length_delimiter(bytes.len(), &mut field).unwrap();
    field.extend_from_slice(bytes);
    field
}

prop_compose! {
    fn attributes()(pairs in vec(("[a-zü.]{1,9}", value()), 0..4)) -> Vec<KeyValue> {
        let pair = |(key, value)| KeyValue { key, value: Some(value), ..KeyValue::default() };
        pairs.into_iter().map(pair).collect()
    }
}

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Value::StringValue),
        any::<bool>().prop_map(Value::BoolValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<f64>().prop_filter("equal to itself", |n| n.is_finite()).prop_map(Value::DoubleValue),
        vec(any::<u8>(), 0..9).prop_map(Value::BytesValue),
    ];
    let some = |value| AnyValue { value: Some(value) };
    let leaf = prop_oneof![8 => leaf.prop_map(some), 1 => Just(AnyValue { value: None })];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(move |values| some(Value::ArrayValue(ArrayValue { values }))),
            vec(("[a-z]{1,3}", inner), 1..4).prop_map(move |pairs| {
                let pair = |(key, value)| KeyValue { key, value: Some(value), ..KeyValue::default() };
                some(Value::KvlistValue(KeyValueList { values: pairs.into_iter().map(pair).collect() }))
            }),
        ]
    })
}

prop_compose! {
    fn event()(time_unix_nano: u64, name: String, attributes in attributes(), dropped_attributes_count: u32) -> span::Event {
        span::Event { time_unix_nano, name, attributes, dropped_attributes_count }
    }
}

prop_compose! {
    fn link()(
        trace_id: [u8; 16], span_id: [u8; 8], trace_state: String, attributes in attributes(),
        dropped_attributes_count: u32, flags: u32,
    ) -> span::Link {
        let (trace_id, span_id) = (trace_id.to_vec(), span_id.to_vec());
        span::Link { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags }
    }
}

prop_compose! {
    fn span()(
        (trace_id, span_id, parent_span_id) in any::<([u8; 16], [u8; 8], Option<[u8; 8]>)>(),
        (trace_state, name) in any::<(String, String)>(),
        (flags, kind, start_time_unix_nano, end_time_unix_nano) in any::<(u32, i32, u64, u64)>(),
        attributes in attributes(),
        (events, links) in (vec(event(), 0..3), vec(link(), 0..3)),
        (dropped_attributes_count, dropped_events_count, dropped_links_count) in any::<(u32, u32, u32)>(),
        status in any::<Option<(String, i32)>>(),
    ) -> Span {
        let status = status.map(|(message, code)| Status { message, code });
        let parent_span_id = parent_span_id.map_or(vec![], |id| id.to_vec());
        let (trace_id, span_id) = (trace_id.to_vec(), span_id.to_vec());
        Span {
            trace_id, span_id, parent_span_id, trace_state, name, flags, kind, start_time_unix_nano,
            end_time_unix_nano, attributes, events, links, dropped_attributes_count, dropped_events_count,
            dropped_links_count, status,
        }
    }
}

prop_compose! {
    fn log()(
        (time_unix_nano, observed_time_unix_nano, severity_number, flags) in any::<(u64, u64, i32, u32)>(),
        (severity_text, event_name) in any::<(String, String)>(),
        body in proptest::option::of(value()),
        attributes in attributes(),
        dropped_attributes_count: u32,
        (trace_id, span_id) in any::<([u8; 16], [u8; 8])>(),
    ) -> LogRecord {
        let (trace_id, span_id) = (trace_id.to_vec(), span_id.to_vec());
        LogRecord {
            time_unix_nano, observed_time_unix_nano, severity_number, flags, severity_text, event_name, body,
            attributes, dropped_attributes_count, trace_id, span_id,
        }
    }
}

prop_compose! {
    fn resource()(
        attributes in attributes(),
        dropped_attributes_count: u32,
        // The crate cannot read one without a member that is empty.
        refs in vec(("[a-z]{1,9}", "[a-z]{1,9}", vec("[a-z.]{1,9}", 1..3)), 0..2),
        schema_url: String,
    ) -> ResourceSpans {
        let entity_refs = refs.into_iter().map(|(schema_url, r#type, id_keys)| {
            EntityRef { schema_url, r#type, description_keys: id_keys.clone(), id_keys }
        }).collect();
        let resource = Some(Resource { attributes, dropped_attributes_count, entity_refs });
        ResourceSpans { resource, schema_url, scope_spans: vec![] }
    }
}

prop_compose! {
    fn scope()((name, version, schema_url) in any::<(String, String, String)>(), attributes in attributes()) -> ScopeSpans {
        let scope = Some(InstrumentationScope { name, version, attributes, dropped_attributes_count: 3 });
        ScopeSpans { scope, schema_url, spans: vec![] }
    }
}

proptest! {
    #[test]
    fn a_span_reads_as_what_it_was(span in span()) {
        let json = whole(&SPAN, &span);
        prop_assert_eq!(serde_json::from_str::<Span>(&json).map_err(|e| format!("{e} in {json}")), Ok(span));
    }

    #[test]
    fn a_log_record_reads_as_what_it_was(log in log()) {
        let json = whole(&LOG, &log);
        prop_assert_eq!(serde_json::from_str::<LogRecord>(&json).map_err(|e| format!("{e} in {json}")), Ok(log));
    }

    #[test]
    fn a_resource_and_a_scope_read_as_what_they_were(resource in resource(), scope in scope()) {
        let json = whole(&RESOURCE_GROUP, &resource);
        prop_assert_eq!(serde_json::from_str::<ResourceSpans>(&json).map_err(|e| format!("{e} in {json}")), Ok(resource));
        let json = whole(&SCOPE_GROUP, &scope);
        prop_assert_eq!(serde_json::from_str::<ScopeSpans>(&json).map_err(|e| format!("{e} in {json}")), Ok(scope));
    }

    #[test]
    fn any_bytes_are_json_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        for schema in [&SPAN, &LOG, &RESOURCE_GROUP, &SCOPE_GROUP] {
            if let Ok((json, _)) = json(schema, &bytes) {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{}", json);
            }
        }
    }

    #[test]
    fn a_damaged_span_is_json_or_an_error(span in span(), at: prop::sample::Index, to: u8) {
        let mut bytes = span.encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Ok((json, _)) = json(&SPAN, &bytes) {
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{}", json);
        }
    }
}
