//! `gravity worker --queue`: batches by S3's events through SQS, on ministack: `make test` starts one. Without
//! `GRAVITY_TEST_MINISTACK` these tests say that they are skipped.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::cloud::Cloud;
use common::gate::{Gate, Way};
use common::otlp::{document, span, trace};
use common::{Place, Ran, finish, gravity, gz, run, signal, start, wait_until};
use serde_json::json;
use std::process::{Child, Command};
use std::time::Duration;

const HOUR: &str = "raw-spans/dt=2025-10-31/hour=11";

fn batch(n: u32) -> Vec<u8> {
    gz(document(&[span(n, n).input(&format!("content {n}"))]).as_bytes())
}

fn name(n: u32) -> String {
    format!("{HOUR}/batch-{n}.json.gz")
}

/// The body that S3 sends for these keys of a bucket, which need no encoding.
fn event(bucket: &str, keys: &[&str]) -> String {
    let record = |key: &&str| {
        json!({"eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
               "s3": {"bucket": {"name": bucket}, "object": {"key": key}}})
    };
    json!({"Records": keys.iter().map(record).collect::<Vec<_>>()}).to_string()
}

/// Starts a worker; its first full pass is over when this returns.
fn start_worker(cloud: &Cloud, command: &mut Command) -> Child {
    let first = format!("raw-spans/dt=2025-10-30/first-{}", cloud.files().keys("raw-spans").len());
    cloud.send_events(false);
    cloud.upload(&first, batch(999));
    cloud.send_events(true);
    let worker = start(command);
    wait_until("what was there is done", || cloud.is_done(&first));
    wait_until("S3's test event is acknowledged", || cloud.depth() == (0, 0));
    worker
}

fn terminate(worker: Child) -> Ran {
    signal(&worker, "TERM");
    finish(worker)
}

#[test]
fn a_batch_is_committed_because_an_event_names_it_and_its_message_is_deleted() {
    let Some(cloud) = Cloud::new() else { return };
    let worker = start_worker(&cloud, &mut cloud.worker());
    let names = ["plain.json", "a blank+plus.json", "100%25.json", "ümläut=&?#.json", "quo\"te'.json"];
    for (n, name) in (1..).zip(names) {
        cloud.upload(&format!("{HOUR}/{name}"), batch(n));
    }
    wait_until("all are done", || {
        names.iter().all(|name| cloud.is_done(&format!("{HOUR}/{name}").replace('%', "%25")))
    });
    wait_until("the messages are deleted", || cloud.depth() == (0, 0));
    terminate(worker).exits(0).says(&["committed=6", "quarantined=0"]);
    cloud.files().check();
    assert_eq!(cloud.run("reconstruct", &[&trace(4)]).exits(0).stdout, b"content 4");
}

/// A worker that has two slow batches in hand, the first of them in work. It has no room for more, and so no request
/// for messages is open: ministack would answer it even when the worker is gone.
fn start_with_two_in_hand(cloud: &Cloud, gate: &Gate, args: &[&str]) -> Child {
    let mut command = cloud.worker();
    command.env("AWS_ENDPOINT_URL", &gate.endpoint).args(["--max-concurrent", "1"]).args(args);
    let worker = start_worker(cloud, &mut command);
    for n in 1..=2 {
        cloud.upload(&format!("{HOUR}/slow-{n}"), batch(n));
    }
    wait_until("one is in work", || gate.held() == 1);
    wait_until("both are in hand", || cloud.depth() == (0, 2));
    worker
}

#[test]
fn a_message_is_kept_while_its_batch_is_in_work_and_comes_back_when_the_worker_dies() {
    let Some(cloud) = Cloud::new() else { return };
    let gate = Gate::new(&cloud.endpoint, "slow-", Way::Held);
    let mut worker = start_with_two_in_hand(&cloud, &gate, &["--visibility-timeout", "3s"]);
    // Twice as long as the messages would stay invisible by themselves.
    for _ in 0..60 {
        assert_eq!(cloud.depth(), (0, 2), "no message is free, and none deleted before the commit");
        std::thread::sleep(Duration::from_millis(100));
    }
    worker.kill().unwrap();
    finish(worker);
    wait_until("they come back", || cloud.depth() == (2, 0));
    assert_eq!(cloud.peek().unwrap().1, 2, "nobody received it in between");
    gate.set(Way::Open);
    let worker = start_worker(&cloud, &mut cloud.worker());
    let both = || (1..=2).all(|n| cloud.is_done(&format!("{HOUR}/slow-{n}")));
    wait_until("the next worker is done", || both() && cloud.depth() == (0, 0));
    terminate(worker).exits(0);
}

#[test]
fn sigterm_finishes_what_is_in_work_and_gives_the_rest_back_at_once() {
    let Some(cloud) = Cloud::new() else { return };
    let gate = Gate::new(&cloud.endpoint, "slow", Way::Held);
    let mut command = cloud.worker();
    command.env("AWS_ENDPOINT_URL", &gate.endpoint).args(["--max-concurrent", "2", "--visibility-timeout", "10m"]);
    let worker = start_worker(&cloud, &mut command);
    for n in 0..6 {
        cloud.upload(&format!("{HOUR}/slow-{n}"), batch(n));
    }
    wait_until("two are in work", || gate.held() == 2);
    wait_until("more are in hand", || cloud.depth().1 > 2);
    signal(&worker, "TERM");
    std::thread::sleep(Duration::from_millis(300));
    gate.set(Way::Open);
    finish(worker).exits(0).says(&["committed=3"]);
    assert_eq!(cloud.files().keys("batches").len(), 3, "the first one and the two in work");
    assert_eq!(cloud.depth(), (4, 0), "the others are free at once");
}

#[test]
fn what_is_not_done_within_the_grace_is_given_back() {
    let Some(cloud) = Cloud::new() else { return };
    let gate = Gate::new(&cloud.endpoint, "slow-", Way::Held);
    let args = ["--shutdown-grace", "200ms", "--visibility-timeout", "10m"];
    let worker = start_with_two_in_hand(&cloud, &gate, &args);
    terminate(worker).exits(0);
    assert_eq!(cloud.depth(), (2, 0));
    assert_eq!(cloud.files().keys("batches").len(), 1, "the first one, before the slow ones");
}

#[test]
fn a_batch_that_fails_is_tried_again_and_its_message_stays_until_it_is_done() {
    let Some(cloud) = Cloud::new() else { return };
    let gate = Gate::new(&cloud.endpoint, "slow", Way::Denied);
    let worker = start_worker(&cloud, cloud.worker().env("AWS_ENDPOINT_URL", &gate.endpoint));
    cloud.upload(&format!("{HOUR}/slow"), batch(1));
    let total = || cloud.depth().0 + cloud.depth().1;
    wait_until("the message is there", || total() == 1);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(total(), 1);
    gate.set(Way::Open);
    wait_until("it is done", || cloud.is_done(&format!("{HOUR}/slow")));
    wait_until("the message is deleted", || total() == 0);
    terminate(worker).exits(0).says(&["outcome=\"failed\"", "AccessDenied", "will be tried again"]);
}

#[test]
fn several_records_in_a_message_are_all_done_before_it_goes() {
    let Some(cloud) = Cloud::without_events() else { return };
    let gate = Gate::new(&cloud.endpoint, "slow", Way::Held);
    let worker = start_worker(&cloud, cloud.worker().env("AWS_ENDPOINT_URL", &gate.endpoint));
    cloud.send_events(false);
    let names = ["a", "bad", "slow"].map(|name| format!("{HOUR}/{name}"));
    cloud.upload(&names[0], batch(1));
    cloud.upload(&names[1], b"hello".to_vec());
    cloud.upload(&names[2], batch(2));
    let keys = names.each_ref().map(|name| cloud.key(name));
    cloud.send(&event(&cloud.bucket, &keys.each_ref().map(String::as_str)));
    wait_until("the good one is done", || cloud.is_done(&names[0]));
    wait_until("the bad one is in quarantine", || cloud.exists(&format!("quarantine/{}.json", names[1])));
    wait_until("the slow one is in work", || gate.held() == 1);
    assert_eq!(cloud.depth(), (0, 1));
    gate.set(Way::Open);
    wait_until("the message is deleted", || cloud.depth() == (0, 0));
    assert!(cloud.is_done(&names[2]), "not before its last batch");
    terminate(worker).exits(0);
}

#[test]
fn events_that_sns_or_event_bridge_pass_on_are_understood() {
    let Some(cloud) = Cloud::without_events() else { return };
    let worker = start_worker(&cloud, &mut cloud.worker());
    cloud.send_events(false);
    for n in 1..=2 {
        cloud.upload(&name(n), batch(n));
    }
    let direct = event(&cloud.bucket, &[&cloud.key(&name(1))]);
    cloud.send(&json!({"Type": "Notification", "MessageId": "m", "Message": direct}).to_string());
    let detail = json!({"bucket": {"name": cloud.bucket}, "object": {"key": cloud.key(&name(2)), "size": 9}});
    cloud.send(&json!({"source": "aws.s3", "detail-type": "Object Created", "detail": detail}).to_string());
    wait_until("both are done", || cloud.is_done(&name(1)) && cloud.is_done(&name(2)));
    wait_until("the messages are deleted", || cloud.depth() == (0, 0));
    terminate(worker).exits(0);
}

#[test]
fn events_that_name_no_batch_are_acknowledged_with_a_line() {
    let Some(cloud) = Cloud::new() else { return };
    let worker = start_worker(&cloud, cloud.worker().arg("-v"));
    cloud.send(&event("some-other-bucket", &["data/raw-spans/x"]));
    cloud.send(&event(&cloud.bucket, &["data/blobs/aa/x.gz"]));
    cloud.send(&event(&cloud.bucket, &["data/raw-spans/a-folder/"]));
    let key = cloud.key(&name(1));
    cloud.send(&event(&cloud.bucket, &[&key]).replace("ObjectCreated:Put", "ObjectRemoved:Delete"));
    wait_until("the messages are deleted", || cloud.depth() == (0, 0));
    let ran = terminate(worker).exits(0).says(&["committed=1", "s3:TestEvent", "ObjectRemoved:Delete"]);
    for object in ["some-other-bucket", "data/blobs/aa/x.gz", "data/raw-spans/a-folder/"] {
        assert!(
            ran.stderr.lines().any(|line| line.contains(object) && line.contains("acknowledged")),
            "{}",
            ran.stderr
        );
    }
    ran.says(&["a filter on data/raw-spans/"]);
    assert_eq!(cloud.files().keys("quarantine"), [""; 0]);
}

#[test]
fn an_event_for_an_object_that_is_gone_is_acknowledged_with_a_warning() {
    let Some(cloud) = Cloud::new() else { return };
    cloud.upload(&name(1), batch(1));
    cloud.delete(&name(1));
    let worker = start_worker(&cloud, &mut cloud.worker());
    let ran = terminate(worker).exits(0).says(&["WARN", "outcome=\"settled\"", "gone before it could be read"]);
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("batch-1.json.gz")).count(), 1, "{}", ran.stderr);
    assert_eq!(cloud.files().keys("quarantine"), [""; 0]);
}

#[test]
fn a_message_that_makes_no_sense_goes_to_quarantine_with_its_body() {
    let Some(cloud) = Cloud::new() else { return };
    let worker = start_worker(&cloud, &mut cloud.worker());
    let body = "{\"Records\": [{\"eventName\": \"ObjectCreated:Put\"}], \"ü\": \"\\u0000\"}";
    cloud.send(body);
    wait_until("the message is deleted", || cloud.depth() == (0, 0));
    terminate(worker).exits(0).says(&["message quarantined", "a record without /s3/bucket/name"]);

    let quarantine = |args: &[&str]| {
        let mut command = gravity();
        let store = format!("s3://{}/data", cloud.bucket);
        let command = command.arg("quarantine").args(args).args(["--store", &store]);
        for (name, value) in cloud.command("x").get_envs() {
            command.env(name, value.unwrap());
        }
        run(command)
    };
    let entry = quarantine(&["list", "--json"]).exits(0).lines().pop().unwrap();
    assert_eq!((&entry["kind"], &entry["receives"]), (&"message".into(), &1.into()));
    let key = entry["key"].as_str().unwrap();
    assert!(quarantine(&["list"]).exits(0).text().contains(key));
    assert_eq!(quarantine(&["show", "--json", key]).exits(0).json()["body"], body);
    let shown = quarantine(&["show", key]).exits(0);
    assert!(shown.text().contains("a record without /s3/bucket/name"), "{}", shown.text());
    cloud.run("verify", &[]).exits(0);
    assert_eq!(cloud.run("inspect", &["--json"]).exits(0).json()["quarantined_messages"]["objects"], 1);
    quarantine(&["retry", key]).exits(1).says(&["messages are not tried again"]);
    quarantine(&["retry", "--all"]).exits(0);
    assert_eq!(quarantine(&["list"]).exits(0).text().lines().count(), 1, "it is no batch");
    quarantine(&["drop", "--yes", key]).exits(0);
    assert_eq!(quarantine(&["list"]).exits(0).text(), "");
    quarantine(&["drop", "--yes", key]).exits(1).says(&["not in quarantine"]);
    quarantine(&["show", key]).exits(1).says(&["not in quarantine"]);
}

#[test]
fn a_message_that_came_too_often_goes_to_quarantine_and_its_batch_is_still_found() {
    let Some(cloud) = Cloud::without_events() else { return };
    cloud.upload(&format!("{HOUR}/slow"), batch(1));
    cloud.send(&event(&cloud.bucket, &[&cloud.key(&format!("{HOUR}/slow"))]));
    for n in 1..=2 {
        assert_eq!(cloud.peek().unwrap().1, n);
    }
    let gate = Gate::new(&cloud.endpoint, "slow", Way::Held);
    let mut command = cloud.worker();
    let worker = start(command.env("AWS_ENDPOINT_URL", &gate.endpoint).args(["--max-receives", "2"]));
    wait_until("the messages are deleted", || cloud.depth() == (0, 0));
    let files = cloud.files();
    let messages = files.keys("quarantine/%messages");
    assert_eq!(messages.len(), 1, "{messages:?}");
    let entry = files.json(messages[0]);
    assert!(entry["reason"].as_str().unwrap().contains("received more than 2 times"), "{entry}");
    assert!(entry["body"].as_str().unwrap().contains("hour=11/slow"), "{entry}");
    gate.set(Way::Open);
    wait_until("the full pass found it", || cloud.is_done(&format!("{HOUR}/slow")));
    terminate(worker).exits(0);
}

#[test]
fn a_message_leaves_quarantine_by_itself_when_its_batches_are_done_and_nonsense_stays() {
    let Some(cloud) = Cloud::without_events() else { return };
    let slow = format!("{HOUR}/slow");
    cloud.upload(&slow, batch(1));
    cloud.send(&event(&cloud.bucket, &[&cloud.key(&slow)]));
    for n in 1..=2 {
        assert_eq!(cloud.peek().unwrap().1, n);
    }
    cloud.send("nonsense");
    let gate = Gate::new(&cloud.endpoint, "slow", Way::Denied);
    let mut command = cloud.worker();
    command.env("AWS_ENDPOINT_URL", &gate.endpoint).args(["--max-receives", "2", "--reconcile-interval", "1s"]);
    let worker = start(&mut command);
    let quarantined = || {
        let files = cloud.files();
        let keys: Vec<_> = files.keys("quarantine/%messages").into_iter().map(str::to_owned).collect();
        // The one that names a batch first.
        let names = |key: &String| files.json(key)["body"].as_str().unwrap().contains("Records");
        keys.iter().filter(|key| names(key)).chain(keys.iter().filter(|key| !names(key))).cloned().collect::<Vec<_>>()
    };
    wait_until("both are in quarantine", || quarantined().len() == 2);
    let messages = quarantined();
    assert!(!cloud.is_done(&slow));
    gate.set(Way::Open);
    wait_until("one has left", || !cloud.exists(&messages[0]));
    assert!(cloud.is_done(&slow));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(cloud.exists(&messages[1]), "nobody knows what the other one meant");
    terminate(worker).exits(0);
}

#[test]
fn a_message_that_came_too_often_is_no_poison_if_its_batch_is_done() {
    let Some(cloud) = Cloud::without_events() else { return };
    cloud.upload(&name(1), batch(1));
    cloud.send(&event(&cloud.bucket, &[&cloud.key(&name(1))]));
    for n in 1..=2 {
        assert_eq!(cloud.peek().unwrap().1, n);
    }
    run(cloud.worker().arg("--once")).exits(0).says(&["committed=1"]);
    assert_eq!(cloud.depth(), (1, 0), "--once leaves the queue alone");
    let worker = start_worker(&cloud, cloud.worker().args(["--max-receives", "2"]));
    terminate(worker).exits(0);
    assert_eq!(cloud.files().keys("quarantine"), [""; 0]);
}

/// A worker on the queue, for a packed store that is as good as flushed at once.
fn packed_worker(cloud: &Cloud) -> Command {
    let mut command = cloud.worker();
    command.args(["--layout", "packed", "--flush-interval", "50ms"]);
    command
}

#[test]
fn a_message_that_came_too_often_is_no_poison_if_a_packed_store_has_its_batch() {
    let Some(cloud) = Cloud::without_events() else { return };
    cloud.upload(&name(1), batch(1));
    cloud.send(&event(&cloud.bucket, &[&cloud.key(&name(1))]));
    for n in 1..=2 {
        assert_eq!(cloud.peek().unwrap().1, n);
    }
    run(packed_worker(&cloud).arg("--once")).exits(0).says(&["committed=1"]);
    let worker = start(packed_worker(&cloud).args(["--max-receives", "2"]));
    wait_until("the message is deleted", || cloud.depth() == (0, 0));
    terminate(worker).exits(0).says(&["committed=0", "quarantined=0"]);
    assert_eq!(cloud.files().keys("quarantine"), [""; 0]);
}

#[test]
fn an_event_of_a_batch_that_another_process_has_packed_stores_nothing() {
    let Some(cloud) = Cloud::without_events() else { return };
    cloud.upload(&name(1), batch(1));
    let worker = start(&mut packed_worker(&cloud));
    wait_until("the full pass is over", || cloud.files().keys("spans").len() == 1);
    cloud.upload(&name(2), batch(2));
    run(packed_worker(&cloud).arg("--once")).exits(0).says(&["committed=1"]);
    // What the worker has listed is good for a second.
    std::thread::sleep(Duration::from_millis(1100));
    cloud.send(&event(&cloud.bucket, &[&cloud.key(&name(2))]));
    wait_until("the message is deleted", || cloud.depth() == (0, 0));
    terminate(worker).exits(0).says(&["committed=1", "outcome=\"settled\"", "stored already"]);
    let verified = cloud.run("verify", &["--json"]).exits(0);
    assert!(!verified.text().contains("batch-twice"), "{}", verified.text());
}

#[test]
fn an_event_that_never_came_is_made_up_for_by_the_next_full_pass() {
    let Some(cloud) = Cloud::without_events() else { return };
    let worker = start_worker(&cloud, cloud.worker().args(["--reconcile-interval", "1s"]));
    cloud.send_events(false);
    cloud.upload(&name(1), batch(1));
    wait_until("it is found", || cloud.is_done(&name(1)));
    terminate(worker).exits(0);
}

#[test]
fn several_workers_share_a_queue() {
    let Some(cloud) = Cloud::new() else { return };
    let workers: Vec<_> =
        (0..2).map(|_| start_worker(&cloud, cloud.worker().args(["--max-concurrent", "1"]))).collect();
    for n in 0..40 {
        cloud.upload(&name(n), batch(n));
    }
    wait_until("all are done", || (0..40).all(|n| cloud.is_done(&name(n))) && cloud.depth() == (0, 0));
    for worker in workers {
        let ran = terminate(worker).exits(0);
        let committed = ran.stderr.split("committed=").nth(1).unwrap();
        let committed: u32 = committed.split(' ').next().unwrap().parse().unwrap();
        // Each had one at its start.
        assert!((2..=40).contains(&committed), "one of two workers committed {committed}");
    }
    cloud.files().check();
}

#[test]
fn a_replaced_batch_that_was_in_quarantine_is_done_when_its_event_comes() {
    let Some(cloud) = Cloud::new() else { return };
    let worker = start_worker(&cloud, &mut cloud.worker());
    cloud.upload(&name(1), b"hello".to_vec());
    wait_until("quarantine", || cloud.exists(&format!("quarantine/{}.json", name(1))));
    cloud.upload(&name(1), batch(1));
    wait_until("it is done", || cloud.is_done(&name(1)) && cloud.depth() == (0, 0));
    terminate(worker).exits(0);
    assert_eq!(cloud.files().keys("quarantine"), [""; 0]);
}

#[test]
fn a_batch_that_is_replaced_while_the_old_one_is_in_work_is_looked_at_again() {
    let Some(cloud) = Cloud::new() else { return };
    let gate = Gate::new(&cloud.endpoint, "slow?", Way::Held);
    let worker = start_worker(&cloud, cloud.worker().env("AWS_ENDPOINT_URL", &gate.endpoint));
    let slow = format!("{HOUR}/slow");
    cloud.upload(&slow, b"hello".to_vec());
    wait_until("the old one was read", || gate.held() == 1);
    cloud.upload(&slow, batch(1));
    wait_until("both messages are in hand", || cloud.depth() == (0, 2));
    std::thread::sleep(Duration::from_millis(300));
    gate.set(Way::Open);
    wait_until("the new one is done", || cloud.is_done(&slow) && cloud.depth() == (0, 0));
    terminate(worker).exits(0).says(&["outcome=\"quarantined\"", "committed=2"]);
    assert_eq!(cloud.files().keys("quarantine"), [""; 0]);
}

#[test]
fn a_queue_that_is_not_there_is_named_at_once() {
    let Some(cloud) = Cloud::new() else { return };
    let absent = format!("{}-absent", cloud.queue);
    let ran = run(cloud.command("worker").args(["--queue", &absent]));
    ran.exits(1).says(&[&absent, "NonExistentQueue", "Gravity does not create queues"]);
}

#[test]
fn a_queue_without_a_bucket_is_a_usage_error() {
    let place = Place::new();
    let queue = "https://sqs.eu-central-1.amazonaws.com/123456789012/gravity";
    place.run("worker", &["--queue", queue]).exits(2).says(&["must be s3://bucket", "\"data\""]);
    assert!(!place.data().exists(), "nothing was begun");
    run(gravity().args(["worker", "--queue", "gravity"])).exits(2).says(&["SQS_QUEUE_URL must be a queue's URL"]);
}
