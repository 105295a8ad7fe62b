//! Which attributes have a column of their own.

use super::Column;

/// Attribute keys, by column. The first attribute of a span that has one of a column's keys fills it.
const KEYS: &[(Column, &[&str])] = &[
    (
        Column::Model,
        &["llm.model_name", "gen_ai.request.model", "gen_ai.response.model", "llm.response.model", "llm.request.model"],
    ),
    (Column::Provider, &["llm.provider", "gen_ai.provider.name", "gen_ai.system", "llm.system"]),
    (
        Column::InputTokens,
        &[
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.prompt_tokens",
            "llm.token_count.prompt",
            "llm.usage.prompt_tokens",
        ],
    ),
    (
        Column::OutputTokens,
        &[
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
            "llm.usage.completion_tokens",
        ],
    ),
    (Column::Cost, &["gen_ai.usage.cost", "gen_ai.cost.total_cost", "llm.cost.total", "llm.usage.total_cost"]),
];

/// The column of an attribute.
pub fn of_attribute(key: &[u8]) -> Option<Column> {
    if !key.starts_with(b"llm.") && !key.starts_with(b"gen_ai.") {
        return None;
    }
    KEYS.iter().find(|(_, keys)| keys.iter().any(|known| known.as_bytes() == key)).map(|&(column, _)| column)
}

/// The convention that an attribute's key shows, the stronger sign first.
pub fn convention_of(key: &[u8]) -> Option<&'static str> {
    const SIGNS: &[(&str, &str)] = &[
        ("llm.input_messages.", "openinference"),
        ("openinference.", "openinference"),
        ("traceloop.", "traceloop"),
        ("langfuse.", "langfuse"),
        ("ai.prompt", "vercel"),
        ("gen_ai.prompt.", "gen_ai.prompt"),
        ("gen_ai.input.messages", "gen_ai.messages"),
        ("gen_ai.", "gen_ai"),
        ("llm.", "llm"),
    ];
    SIGNS.iter().find(|(sign, _)| key.starts_with(sign.as_bytes())).map(|&(_, name)| name)
}
