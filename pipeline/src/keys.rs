//! Which attributes and events hold content: the one table, and the matcher over it.
//!
//! Content is picked by key, never by span name: names changed between LiteLLM releases, keys did not. A row's
//! pattern is made of `.`-separated segments: `{n}` stands for one of decimal digits, `*` for any one, a last `**`
//! for one or more of anything.

use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Where a row looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    /// Attributes of spans, of span events and of log records.
    Attribute,
    /// Attributes of span events and log records of one event name, and (as `body`) such a log record's body.
    Event,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Where it looks.
    #[serde(rename = "where")]
    pub place: Where,
    /// The pattern of the event's name, for [`Where::Event`].
    pub event: Option<&'static str>,
    /// The pattern of the attribute's key.
    pub key: &'static str,
    /// Who writes it.
    pub producer: &'static str,
    /// Where that is documented or was seen.
    pub source: &'static str,
}

const fn attribute(key: &'static str, producer: &'static str, source: &'static str) -> Row {
    Row { place: Where::Attribute, event: None, key, producer, source }
}

const fn event(event: &'static str, key: &'static str, producer: &'static str, source: &'static str) -> Row {
    Row { place: Where::Event, event: Some(event), key, producer, source }
}

const LITELLM: &str = "LiteLLM";
const OPENINFERENCE: &str = "OpenInference";
const GENAI: &str = "OTel GenAI";
const VERCEL: &str = "Vercel AI SDK";
const OTEL_PY: &str = "litellm/integrations/opentelemetry.py, 1.79 and 1.81; captured";
const RAW_REQUEST: &str = "litellm/integrations/opentelemetry.py, span raw_gen_ai_request; captured";
const OI_SPEC: &str = "OpenInference semantic conventions";
const GENAI_SPEC: &str = "OpenTelemetry semantic conventions, gen-ai spans and events";
const GENAI_OLD: &str = "OpenTelemetry semantic conventions 1.28, gen-ai events (replaced)";
const AI_SDK: &str = "AI SDK documentation, telemetry";

/// Every key that is content.
pub const TABLE: &[Row] = &[
    // LiteLLM, `callbacks: ["otel"]`.
    attribute("gen_ai.prompt.{n}.**", LITELLM, OTEL_PY),
    attribute("gen_ai.completion.{n}.**", LITELLM, OTEL_PY),
    attribute("llm.request.functions.{n}.**", LITELLM, OTEL_PY),
    attribute("gen_ai.prompt", LITELLM, "litellm/integrations/opentelemetry.py, event logs; captured"),
    attribute("gen_ai.completion", LITELLM, "litellm/integrations/opentelemetry.py, event logs"),
    attribute("exception", LITELLM, "litellm/integrations/opentelemetry.py, failures; captured"),
    attribute("error.message", LITELLM, "litellm/integrations/opentelemetry.py 1.81, failures; captured"),
    attribute("error.stack_trace", LITELLM, "litellm/integrations/opentelemetry.py 1.81, failures; captured"),
    // LiteLLM, what went to and came from the provider, as Python reprs.
    attribute("llm.*.messages", LITELLM, RAW_REQUEST),
    attribute("llm.*.system", LITELLM, RAW_REQUEST),
    attribute("llm.*.system_instruction", LITELLM, RAW_REQUEST),
    attribute("llm.*.instructions", LITELLM, RAW_REQUEST),
    attribute("llm.*.prompt", LITELLM, RAW_REQUEST),
    attribute("llm.*.input", LITELLM, RAW_REQUEST),
    attribute("llm.*.contents", LITELLM, RAW_REQUEST),
    attribute("llm.*.tools", LITELLM, RAW_REQUEST),
    attribute("llm.*.functions", LITELLM, RAW_REQUEST),
    attribute("llm.*.response_format", LITELLM, RAW_REQUEST),
    attribute("llm.*.documents", LITELLM, RAW_REQUEST),
    attribute("llm.*.query", LITELLM, RAW_REQUEST),
    attribute("llm.*.choices", LITELLM, RAW_REQUEST),
    attribute("llm.*.candidates", LITELLM, RAW_REQUEST),
    attribute("llm.*.content", LITELLM, RAW_REQUEST),
    attribute("llm.*.output", LITELLM, RAW_REQUEST),
    attribute("llm.*.reasoning", LITELLM, RAW_REQUEST),
    attribute("llm.*.data", LITELLM, RAW_REQUEST),
    attribute("llm.*.results", LITELLM, RAW_REQUEST),
    attribute("llm.*.error", LITELLM, RAW_REQUEST),
    attribute("llm.*.usage", LITELLM, RAW_REQUEST),
    attribute("llm.*.stringified_raw_response", LITELLM, RAW_REQUEST),
    // OpenInference, and LiteLLM's Arize and Phoenix callbacks.
    attribute("input.value", OPENINFERENCE, OI_SPEC),
    attribute("output.value", OPENINFERENCE, OI_SPEC),
    attribute("llm.input_messages.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("llm.output_messages.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("llm.tools.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("llm.invocation_parameters", OPENINFERENCE, OI_SPEC),
    attribute("llm.prompts.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("llm.prompts", OPENINFERENCE, OI_SPEC),
    attribute("llm.choices.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("llm.function_call", OPENINFERENCE, OI_SPEC),
    attribute("llm.prompt_template.template", OPENINFERENCE, OI_SPEC),
    attribute("llm.prompt_template.variables", OPENINFERENCE, OI_SPEC),
    attribute("tool.description", OPENINFERENCE, OI_SPEC),
    attribute("tool.parameters", OPENINFERENCE, OI_SPEC),
    attribute("tool.json_schema", OPENINFERENCE, OI_SPEC),
    attribute("embedding.embeddings.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("embedding.text", OPENINFERENCE, OI_SPEC),
    attribute("retrieval.documents.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("reranker.query", OPENINFERENCE, OI_SPEC),
    attribute("reranker.input_documents.{n}.**", OPENINFERENCE, OI_SPEC),
    attribute("reranker.output_documents.{n}.**", OPENINFERENCE, OI_SPEC),
    // OpenTelemetry's own conventions.
    attribute("gen_ai.system_instructions", GENAI, GENAI_SPEC),
    attribute("gen_ai.input.messages", GENAI, GENAI_SPEC),
    attribute("gen_ai.output.messages", GENAI, GENAI_SPEC),
    attribute("gen_ai.tool.definitions", GENAI, GENAI_SPEC),
    attribute("gen_ai.tool.description", GENAI, GENAI_SPEC),
    attribute("gen_ai.tool.call.arguments", GENAI, GENAI_SPEC),
    attribute("gen_ai.tool.call.result", GENAI, GENAI_SPEC),
    event("gen_ai.client.inference.operation.details", "**", GENAI, GENAI_SPEC),
    event("gen_ai.system.message", "**", GENAI, GENAI_OLD),
    event("gen_ai.user.message", "**", GENAI, GENAI_OLD),
    event("gen_ai.assistant.message", "**", GENAI, GENAI_OLD),
    event("gen_ai.tool.message", "**", GENAI, GENAI_OLD),
    event("gen_ai.choice", "**", GENAI, GENAI_OLD),
    event("gen_ai.content.prompt", "**", LITELLM, "litellm/integrations/opentelemetry.py, event logs; captured"),
    event("gen_ai.content.completion", "**", LITELLM, "litellm/integrations/opentelemetry.py, event logs; captured"),
    event(
        "exception",
        "exception.message",
        LITELLM,
        "OpenTelemetry semantic conventions, exceptions; captured at 1.81",
    ),
    event(
        "exception",
        "exception.stacktrace",
        LITELLM,
        "OpenTelemetry semantic conventions, exceptions; captured at 1.81",
    ),
    event("exception", "exception.type", LITELLM, "OpenTelemetry semantic conventions, exceptions; captured at 1.81"),
    event("llm.request", "body", "any", "span events with a `body` attribute: the original Gravity's own example"),
    event("llm.response", "body", "any", "span events with a `body` attribute: the original Gravity's own example"),
    // Others.
    attribute("traceloop.entity.input", "Traceloop", "OpenLLMetry, semantic_conventions_ai"),
    attribute("traceloop.entity.output", "Traceloop", "OpenLLMetry, semantic_conventions_ai"),
    attribute("ai.prompt", VERCEL, AI_SDK),
    attribute("ai.prompt.messages", VERCEL, AI_SDK),
    attribute("ai.prompt.tools", VERCEL, AI_SDK),
    attribute("ai.response.text", VERCEL, AI_SDK),
    attribute("ai.response.object", VERCEL, AI_SDK),
    attribute("ai.response.reasoning", VERCEL, AI_SDK),
    attribute("ai.response.toolCalls", VERCEL, AI_SDK),
    attribute("ai.toolCall.args", VERCEL, AI_SDK),
    attribute("ai.toolCall.result", VERCEL, AI_SDK),
    attribute("ai.value", VERCEL, AI_SDK),
    attribute("ai.values", VERCEL, AI_SDK),
    attribute("ai.embedding", VERCEL, AI_SDK),
    attribute("ai.embeddings", VERCEL, AI_SDK),
    attribute("langfuse.observation.input", "Langfuse", "Langfuse documentation, OpenTelemetry attributes"),
    attribute("langfuse.observation.output", "Langfuse", "Langfuse documentation, OpenTelemetry attributes"),
    attribute("langfuse.trace.input", "Langfuse", "Langfuse documentation, OpenTelemetry attributes"),
    attribute("langfuse.trace.output", "Langfuse", "Langfuse documentation, OpenTelemetry attributes"),
];

/// The table with a configuration's additions and exclusions.
#[derive(Debug, Clone, Default)]
pub struct ContentKeys {
    added: Vec<String>,
    excluded: Vec<String>,
    /// Attribute keys come from a small set again and again (a message's number is the most that changes).
    known: Arc<RwLock<HashMap<Box<str>, bool, foldhash::fast::RandomState>>>,
}

/// Keys remembered at most; a producer that invents them is matched without memory from there on.
const REMEMBERED: usize = 10_000;

impl ContentKeys {
    /// The table, with more attribute patterns and without others. An exclusion goes before everything else.
    pub fn new(added: Vec<String>, excluded: Vec<String>) -> Self {
        Self { added, excluded, known: Arc::default() }
    }

    /// Is an attribute of this key content, wherever it stands?
    pub fn attribute(&self, key: &str) -> bool {
        if let Some(&known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return known;
        }
        let content = !self.is_excluded(key)
            && (self.added.iter().any(|pattern| matches(pattern, key))
                || TABLE.iter().any(|row| row.place == Where::Attribute && matches(row.key, key)));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED {
            known.insert(key.into(), content);
        }
        content
    }

    /// Is an attribute of this key (or `body`) content on an event or a log record of this name?
    pub fn event(&self, event: &str, key: &str) -> bool {
        !self.is_excluded(key)
            && TABLE.iter().any(|row| row.event.is_some_and(|name| matches(name, event)) && matches(row.key, key))
    }

    fn is_excluded(&self, key: &str) -> bool {
        self.excluded.iter().any(|pattern| matches(pattern, key))
    }
}

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit())
}

/// Does a dotted name fit a pattern of the table?
pub fn matches(pattern: &str, name: &str) -> bool {
    // Every key that comes up is compared with all patterns: most differ before their first wildcard, or in the end.
    let same = pattern.bytes().zip(name.bytes()).take_while(|(p, n)| p == n && !matches!(p, b'*' | b'{')).count();
    if !matches!(pattern.as_bytes().get(same), None | Some(b'*' | b'{')) {
        return false;
    }
    let last = pattern.as_bytes().last();
    if !matches!(last, Some(b'*' | b'}')) && last != name.as_bytes().last() {
        return false;
    }
    let (mut pattern, mut name) = (pattern.split('.'), name.split('.'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some("**"), Some(_)) => return pattern.next().is_none(),
            (Some("*"), Some(_)) => {}
            (Some("{n}"), Some(number)) if is_number(number) => {}
            (Some(literal), Some(segment)) if literal == segment && literal != "{n}" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_segment_by_segment() {
        for (pattern, name, expected) in [
            ("input.value", "input.value", true),
            ("input.value", "input.value.x", false),
            ("input.value", "input", false),
            ("gen_ai.prompt.{n}.**", "gen_ai.prompt.0.content", true),
            ("gen_ai.prompt.{n}.**", "gen_ai.prompt.12.function_call.name", true),
            ("gen_ai.prompt.{n}.**", "gen_ai.prompt.12", false),
            ("gen_ai.prompt.{n}.**", "gen_ai.prompt.x.content", false),
            ("llm.*.messages", "llm.None.messages", true),
            ("llm.*.messages", "llm.messages", false),
            ("llm.*.messages", "llm.*x.messages", true),
            ("llm.*.messages", "llm.None.message", false),
            ("llm.*.messages", "llm.None.other_messages", false),
            ("llm.prompts.{n}.**", "llm.prompts.{n}.x", false),
            ("gen_ai.prompt", "gen_ai.prompt.0", false),
            ("**", "any.thing", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn exclusions_go_before_additions_and_the_table() {
        let keys =
            ContentKeys::new(vec!["my.key".into(), "my.secret".into()], vec!["*.secret".into(), "input.value".into()]);
        assert!(keys.attribute("my.key"));
        assert!(!keys.attribute("my.secret"));
        assert!(!keys.attribute("input.value"));
        assert!(keys.attribute("output.value"));
        assert!(!keys.attribute("http.method"));
    }

    #[test]
    fn event_rows_need_the_events_name() {
        let keys = ContentKeys::default();
        assert!(keys.event("llm.request", "body"));
        assert!(!keys.event("http.request", "body"));
        assert!(keys.event("gen_ai.choice", "anything.at.all"));
    }
}
