//! A bucket of ministack whose events come into a queue of its own.

use super::store::Files;
use super::{Ran, gravity, run};
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    Event, FilterRule, FilterRuleName, NotificationConfiguration, NotificationConfigurationFilter, QueueConfiguration,
    S3KeyFilter,
};
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use aws_smithy_http_client::Builder as HttpClient;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;
use tokio::runtime::Runtime;

/// A bucket, a queue, and a store below `data/` in the bucket.
pub struct Cloud {
    pub endpoint: String,
    pub bucket: String,
    pub queue: String,
    runtime: Runtime,
    s3: aws_sdk_s3::Client,
    sqs: aws_sdk_sqs::Client,
}

/// What stands before all keys of the store.
const PREFIX: &str = "data";

impl Cloud {
    /// With events; `None`, and a word about it, if there is no server.
    pub fn new() -> Option<Self> {
        let cloud = Self::without_events()?;
        cloud.send_events(true);
        Some(cloud)
    }

    /// A bucket that does not tell the queue of anything.
    pub fn without_events() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(endpoint) = std::env::var("GRAVITY_TEST_MINISTACK") else {
            eprintln!("SKIPPED: GRAVITY_TEST_MINISTACK is not set; dev/ministack.py run -- cargo test");
            return None;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos();
        let name = format!("gravity-{now:x}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let credentials = Credentials::new("test", "test", None, None, "test");
        let s3 = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(HttpClient::new().build_http())
            .credentials_provider(credentials.clone())
            .region(Region::new("us-east-1"))
            .endpoint_url(&endpoint)
            .force_path_style(true);
        let sqs = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(HttpClient::new().build_http())
            .credentials_provider(credentials)
            .region(Region::new("us-east-1"))
            .endpoint_url(&endpoint);
        let (s3, sqs) = (aws_sdk_s3::Client::from_conf(s3.build()), aws_sdk_sqs::Client::from_conf(sqs.build()));
        let queue = runtime.block_on(async {
            s3.create_bucket().bucket(&name).send().await.expect("a bucket");
            let policy = format!(
                r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Service":"s3.amazonaws.com"}},
                "Action":"sqs:SendMessage","Resource":"arn:aws:sqs:us-east-1:000000000000:{name}",
                "Condition":{{"ArnEquals":{{"aws:SourceArn":"arn:aws:s3:::{name}"}}}}}}]}}"#
            );
            let queue = sqs.create_queue().queue_name(&name).attributes(QueueAttributeName::Policy, policy);
            queue.send().await.expect("a queue").queue_url.expect("a URL")
        });
        Some(Self { endpoint, bucket: name, queue, runtime, s3, sqs })
    }

    /// Configures events of new batches, or none.
    pub fn send_events(&self, on: bool) {
        let rule = FilterRule::builder().name(FilterRuleName::Prefix).value(format!("{PREFIX}/raw-spans/")).build();
        let key = S3KeyFilter::builder().filter_rules(rule).build();
        let to_queue = QueueConfiguration::builder()
            .queue_arn(format!("arn:aws:sqs:us-east-1:000000000000:{}", self.bucket))
            .events(Event::S3ObjectCreated)
            .filter(NotificationConfigurationFilter::builder().key(key).build())
            .build()
            .expect("an ARN and events");
        let configuration =
            NotificationConfiguration::builder().set_queue_configurations(on.then(|| vec![to_queue])).build();
        let request = self.s3.put_bucket_notification_configuration().bucket(&self.bucket);
        self.runtime.block_on(request.notification_configuration(configuration).send()).expect("notifications");
    }

    /// A command, of one word or two, on the store, without the queue.
    pub fn command(&self, words: &str) -> Command {
        let mut command = gravity();
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("NO_PROXY", "127.0.0.1");
        command.args(words.split(' ')).args(["--store", &format!("s3://{}/{PREFIX}", self.bucket)]);
        command
    }

    pub fn run(&self, name: &str, args: &[&str]) -> Ran {
        run(self.command(name).args(args))
    }

    /// A worker on the queue whose listings come once, at its start.
    pub fn worker(&self) -> Command {
        let mut command = self.command("worker");
        command.env("SQS_QUEUE_URL", &self.queue).args(["--poll-interval", "100ms"]);
        command
    }

    /// The object's key in the bucket.
    pub fn key(&self, name: &str) -> String {
        format!("{PREFIX}/{name}")
    }

    /// Writes an object of the store, as the collector does.
    pub fn upload(&self, name: &str, bytes: Vec<u8>) {
        let put = self.s3.put_object().bucket(&self.bucket).key(self.key(name)).body(ByteStream::from(bytes));
        self.runtime.block_on(put.send()).expect("an upload");
    }

    pub fn delete(&self, name: &str) {
        let delete = self.s3.delete_object().bucket(&self.bucket).key(self.key(name));
        self.runtime.block_on(delete.send()).expect("a deletion");
    }

    pub fn exists(&self, name: &str) -> bool {
        let head = self.s3.head_object().bucket(&self.bucket).key(self.key(name));
        self.runtime.block_on(head.send()).is_ok()
    }

    /// True if the ledger has the batch.
    pub fn is_done(&self, batch: &str) -> bool {
        self.exists(&format!("batches/{batch}.json"))
    }

    /// All objects of the store.
    pub fn files(&self) -> Files {
        self.runtime.block_on(async {
            let mut files = Files::default();
            let mut pages = self.s3.list_objects_v2().bucket(&self.bucket).into_paginator().send();
            while let Some(page) = pages.next().await {
                for key in page.expect("a page").contents.unwrap_or_default().into_iter().filter_map(|o| o.key) {
                    let object = self.s3.get_object().bucket(&self.bucket).key(&key).send().await.expect("an object");
                    let bytes = object.body.collect().await.expect("its bytes").to_vec();
                    files.0.insert(key.strip_prefix("data/").unwrap_or(&key).to_owned(), bytes);
                }
            }
            files
        })
    }

    /// Puts a message into the queue.
    pub fn send(&self, body: &str) {
        self.runtime.block_on(self.sqs.send_message().queue_url(&self.queue).message_body(body).send()).expect("sent");
    }

    /// Messages that can be received, and those that somebody has in hand.
    pub fn depth(&self) -> (u32, u32) {
        let all = self.sqs.get_queue_attributes().queue_url(&self.queue).attribute_names(QueueAttributeName::All);
        let attributes = self.runtime.block_on(all.send()).expect("attributes").attributes.unwrap_or_default();
        let number = |name| attributes[&name].parse().expect("a number");
        (
            number(QueueAttributeName::ApproximateNumberOfMessages),
            number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        )
    }

    /// Receives a message and gives it back at once: its body, and how often it has been received.
    pub fn peek(&self) -> Option<(String, u32)> {
        let receive = self.sqs.receive_message().queue_url(&self.queue).visibility_timeout(0);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        let message = self.runtime.block_on(receive.send()).expect("an answer").messages?.pop()?;
        let receives = message.attributes?[&MessageSystemAttributeName::ApproximateReceiveCount].parse();
        Some((message.body?, receives.expect("a number")))
    }
}
