//! Reads what S3 says of its objects, in each of the forms in which it comes through a queue: its own, wrapped by
//! SNS, and EventBridge's.

use serde_json::Value;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An object was written.
    Created {
        /// The bucket's name.
        bucket: String,
        /// The object's key, as S3 has it.
        key: String,
    },
    /// Something that makes no new batch: a test, a removal.
    Other {
        /// What it is called.
        name: String,
        /// The bucket and the key, for people.
        object: String,
    },
}

/// Reads the body of a message, which may tell of several objects.
///
/// # Errors
/// What it is if it is not an event of S3, in words. A message of which only a part can be read is not read at all.
pub fn parse(body: &str) -> Result<Vec<Event>, String> {
    let message = json(body)?;
    match message.get("Type").and_then(Value::as_str) {
        // Raw message delivery has no such envelope, and nothing wraps twice.
        Some("Notification") => {
            let inner = message.get("Message").and_then(Value::as_str);
            events(&json(inner.ok_or("an SNS notification without a Message")?)?)
        }
        Some("SubscriptionConfirmation") => Err("SNS asks to confirm the subscription: visit its SubscribeURL".into()),
        _ => events(&message),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))
}

fn events(message: &Value) -> Result<Vec<Event>, String> {
    if let Some(records) = message.get("Records") {
        let records = records.as_array().ok_or("Records is not a list")?;
        return records.iter().map(record).collect();
    }
    if let Some(name) = message.get("Event").and_then(Value::as_str) {
        // s3:TestEvent, which S3 sends when notifications are configured.
        let object = message.get("Bucket").and_then(Value::as_str).unwrap_or_default();
        return Ok(vec![Event::Other { name: name.into(), object: object.into() }]);
    }
    if message.get("source").and_then(Value::as_str) == Some("aws.s3") {
        return event_bridge(message).map(|event| vec![event]);
    }
    Err("not an event of S3: neither Records nor Event nor source \"aws.s3\" is there".into())
}

/// One of S3's own records: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>.
fn record(record: &Value) -> Result<Event, String> {
    let text = |path: &str| record.pointer(path).and_then(Value::as_str).ok_or(format!("a record without {path}"));
    let (name, bucket) = (text("/eventName")?, text("/s3/bucket/name")?);
    let key = unescape(text("/s3/object/key")?)?;
    // S3 leaves out the `s3:`, some servers do not.
    let is_created = name.strip_prefix("s3:").unwrap_or(name).starts_with("ObjectCreated:");
    Ok(event(is_created, name, bucket, key))
}

/// EventBridge's form: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>. Its keys are as they are.
fn event_bridge(message: &Value) -> Result<Event, String> {
    let text = |path: &str| message.pointer(path).and_then(Value::as_str).ok_or(format!("an event without {path}"));
    let name = text("/detail-type")?;
    let bucket = text("/detail/bucket/name")?;
    match text("/detail/object/key") {
        Ok(key) => Ok(event(name == "Object Created", name, bucket, key.to_owned())),
        Err(missing) if name == "Object Created" => Err(missing),
        Err(_) => Ok(Event::Other { name: name.into(), object: bucket.into() }),
    }
}

fn event(is_created: bool, name: &str, bucket: &str, key: String) -> Event {
    match is_created {
        true => Event::Created { bucket: bucket.into(), key },
        false => Event::Other { name: name.into(), object: format!("{bucket}/{key}") },
    }
}

/// Undoes the form encoding of keys: `+` is a blank, `%2B` a plus.
fn unescape(key: &str) -> Result<String, String> {
    let bad = || format!("the key {key:?} is not URL-encoded UTF-8");
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (high, low) = (rest.first().and_then(hex), rest.get(1).and_then(hex));
                bytes.push(high.ok_or_else(bad)? << 4 | low.ok_or_else(bad)?);
                rest = &rest[2..];
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

/// Which objects of which bucket are batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The bucket's name.
    pub bucket: String,
    /// What stands before every key of the store, without a `/` at either end; may be empty.
    pub prefix: String,
    /// The folder of the batches in the store (`RAW_SPANS_PATH`).
    pub raw_spans: String,
}

impl Watched {
    /// What the keys of all batches begin with.
    pub fn folder(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("{}/", self.raw_spans),
            prefix => format!("{prefix}/{}/", self.raw_spans),
        }
    }

    /// The batch's name in the store, if the object is one.
    pub fn batch<'a>(&self, bucket: &str, key: &'a str) -> Option<&'a str> {
        let below = key.strip_prefix(self.folder().as_str())?;
        let name = &key[key.len() - below.len() - self.raw_spans.len() - 1..];
        // A "folder" made by a console is an object whose name ends in `/`.
        (bucket == self.bucket && !below.is_empty() && !name.ends_with('/')).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A key as S3 writes it into its own records.
    fn escape(key: &str) -> String {
        let mut out = String::new();
        for byte in key.bytes() {
            match byte {
                b' ' => out.push('+'),
                byte if byte.is_ascii_alphanumeric() || b"-_.~*/".contains(&byte) => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    }

    fn s3_record(name: &str, bucket: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-central-1", "eventName": name,
            "s3": {"bucket": {"name": bucket}, "object": {"key": escape(key), "size": 9, "eTag": "d41d"}},
        })
    }

    fn created(bucket: &str, key: &str) -> Event {
        Event::Created { bucket: bucket.into(), key: key.into() }
    }

    #[test]
    fn a_record_of_s3_names_bucket_and_key() {
        let body = json!({"Records": [s3_record("ObjectCreated:Put", "traces", "raw-spans/a.json.gz")]});
        assert_eq!(parse(&body.to_string()), Ok(vec![created("traces", "raw-spans/a.json.gz")]));
    }

    #[test]
    fn a_plus_is_a_blank_and_percent_codes_are_bytes() {
        let body = r#"{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},
            "object":{"key":"raw-spans/dt%3D2025-10-31/a+b%2Bc%2fd%C3%A9.json"}}}]}"#;
        assert_eq!(parse(body), Ok(vec![created("b", "raw-spans/dt=2025-10-31/a b+c/dé.json")]));
    }

    #[test]
    fn several_records_are_several_events_in_their_order() {
        let records = [
            s3_record("ObjectCreated:CompleteMultipartUpload", "b", "1"),
            s3_record("ObjectRemoved:Delete", "b", "2"),
            s3_record("s3:ObjectCreated:Copy", "c", "3"),
        ];
        let other = Event::Other { name: "ObjectRemoved:Delete".into(), object: "b/2".into() };
        let events = parse(&json!({ "Records": records }).to_string());
        assert_eq!(events, Ok(vec![created("b", "1"), other, created("c", "3")]));
    }

    #[test]
    fn a_test_event_is_nothing_to_do() {
        let body = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b", "RequestId": "r"});
        let test = Event::Other { name: "s3:TestEvent".into(), object: "b".into() };
        assert_eq!(parse(&body.to_string()), Ok(vec![test]));
    }

    #[test]
    fn sns_wraps_any_of_them() {
        let inner = json!({"Records": [s3_record("ObjectCreated:Put", "b", "a b")]}).to_string();
        let body = json!({"Type": "Notification", "TopicArn": "arn:aws:sns:::t", "Message": inner});
        assert_eq!(parse(&body.to_string()), Ok(vec![created("b", "a b")]));
        let bridge = bridge("Object Created", "a b").to_string();
        let body = json!({"Type": "Notification", "Message": bridge});
        assert_eq!(parse(&body.to_string()), Ok(vec![created("b", "a b")]));
    }

    /// As ministack's S3, SNS and EventBridge sent them.
    #[test]
    fn real_messages_name_the_same_key_in_each_form() {
        let key = "raw-spans/dt=2025-10-31/hour=11/a b+c.json.gz";
        for (body, bucket) in [
            (include_str!("../../fuzz/seeds/queue_event/direct"), "direct"),
            (include_str!("../../fuzz/seeds/queue_event/sns"), "viasns"),
            (include_str!("../../fuzz/seeds/queue_event/bridge"), "viabus"),
        ] {
            assert_eq!(parse(body), Ok(vec![created(bucket, key)]));
        }
        let test = Event::Other { name: "s3:TestEvent".into(), object: "direct".into() };
        assert_eq!(parse(include_str!("../../fuzz/seeds/queue_event/test")), Ok(vec![test]));
    }

    fn bridge(name: &str, key: &str) -> Value {
        json!({"version": "0", "detail-type": name, "source": "aws.s3",
               "detail": {"bucket": {"name": "b"}, "object": {"key": key, "size": 1}, "reason": "PutObject"}})
    }

    #[test]
    fn event_bridge_does_not_encode_keys() {
        assert_eq!(parse(&bridge("Object Created", "a+b%20").to_string()), Ok(vec![created("b", "a+b%20")]));
        let other = Event::Other { name: "Object Deleted".into(), object: "b/x".into() };
        assert_eq!(parse(&bridge("Object Deleted", "x").to_string()), Ok(vec![other]));
    }

    #[test]
    fn what_is_no_event_of_s3_is_refused_with_the_reason() {
        for (body, reason) in [
            ("", "not JSON"),
            ("hello", "not JSON"),
            ("[]", "not an event of S3"),
            (r#"{"source":"aws.ec2","detail-type":"x","detail":{}}"#, "not an event of S3"),
            (r#"{"Records":{}}"#, "not a list"),
            (r#"{"Records":[{"eventName":"ObjectCreated:Put"}]}"#, "a record without /s3/bucket/name"),
            (r#"{"Records":[{"eventSource":"aws:ses","ses":{}}]}"#, "a record without /eventName"),
            (r#"{"source":"aws.s3","detail-type":"Object Created","detail":{"bucket":{"name":"b"}}}"#, "/object/key"),
            (r#"{"Type":"Notification"}"#, "without a Message"),
            (r#"{"Type":"Notification","Message":"hello"}"#, "not JSON"),
            (r#"{"Type":"SubscriptionConfirmation","SubscribeURL":"https://x"}"#, "SubscribeURL"),
        ] {
            let why = parse(body).unwrap_err();
            assert!(why.contains(reason), "{body}: {why}");
        }
        for key in ["%", "%2", "%zz", "%+1", "%FF", "a%C3"] {
            let body = json!({"Records": [{"eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "b"}, "object": {"key": key}}}]});
            assert!(parse(&body.to_string()).unwrap_err().contains("not URL-encoded UTF-8"), "{key}");
        }
    }

    #[test]
    fn a_batch_is_an_object_of_the_bucket_below_the_folder_of_raw_spans() {
        let watched = |prefix: &str| Watched { bucket: "b".into(), prefix: prefix.into(), raw_spans: "raw".into() };
        let root = watched("");
        assert_eq!(root.batch("b", "raw/dt=1/x"), Some("raw/dt=1/x"));
        for (bucket, key) in [("c", "raw/x"), ("b", "rawer/x"), ("b", "blobs/raw/x"), ("b", "raw"), ("b", "raw/d/")] {
            assert_eq!(root.batch(bucket, key), None, "{bucket} {key}");
        }
        assert_eq!(watched("p/q").batch("b", "p/q/raw/x"), Some("raw/x"));
        assert_eq!(watched("p/q").batch("b", "raw/x"), None);
        assert_eq!(watched("p/q").batch("b", "p/qraw/x"), None);
    }

    proptest! {
        #[test]
        fn any_key_comes_back_from_any_form(key in "(?s).{0,60}", bucket in "[a-z0-9.-]{3,20}") {
            let direct = json!({"Records": [s3_record("ObjectCreated:Put", &bucket, &key)]}).to_string();
            let wrapped = json!({"Type": "Notification", "Message": &direct}).to_string();
            let detail = json!({"bucket": {"name": &bucket}, "object": {"key": &key}});
            let bridge = json!({"source": "aws.s3", "detail-type": "Object Created", "detail": detail}).to_string();
            for body in [direct, wrapped, bridge] {
                prop_assert_eq!(parse(&body), Ok(vec![created(&bucket, &key)]));
            }
        }

        #[test]
        fn no_text_makes_it_panic(body in "(?s).{0,200}") {
            let _ = parse(&body);
        }
    }
}
