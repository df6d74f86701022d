//! Forwards a plugin's `tracing` events to the host.
//!
//! `tracing` keeps its dispatcher in a static, and every library has its own statics, so without this a plugin's events would be
//! lost. [`install`] sets this library's global subscriber, which passes each event to the sink as one line of JSON. If the job
//! sets its own subscriber for a scope, that one is used there.

use crate::abi::BoxedSink;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Sends this library's events of at least `level` to `sink`, until the process ends.
pub(crate) fn install(sink: &Arc<BoxedSink>, level: &str) {
    let Ok(level) = level.parse::<LevelFilter>() else { return };
    if level == LevelFilter::OFF {
        return;
    }
    // Fails only if the job's own code (a constructor) has set a subscriber first; keep that one.
    let _ = tracing::subscriber::set_global_default(subscriber(sink, level));
}

/// The subscriber that [`install`] sets.
pub(crate) fn subscriber(sink: &Arc<BoxedSink>, level: LevelFilter) -> impl Subscriber + Send + Sync + use<> {
    tracing_subscriber::registry().with(Bridge { sink: Arc::clone(sink), level })
}

struct Bridge {
    sink: Arc<BoxedSink>,
    level: LevelFilter,
}

/// A span's fields, stored in the registry.
struct SpanFields(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Bridge {
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(SpanFields(fields.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id)
            && let Some(SpanFields(map)) = span.extensions_mut().get_mut::<SpanFields>()
        {
            let mut fields = Fields(std::mem::take(map));
            values.record(&mut fields);
            *map = fields.0;
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let message = fields.0.remove("message");
        let mut line = Map::new();
        line.insert("time".into(), chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true).into());
        line.insert("level".into(), metadata.level().as_str().into());
        line.insert("target".into(), metadata.target().into());
        if let Some(message) = message {
            line.insert("message".into(), message);
        }
        if !fields.0.is_empty() {
            line.insert("fields".into(), fields.0.into());
        }
        let spans: Vec<Value> = cx
            .event_scope(event)
            .map(|scope| {
                scope
                    .from_root()
                    .map(|span| {
                        let mut entry = Map::new();
                        entry.insert("name".into(), span.name().into());
                        if let Some(SpanFields(fields)) = span.extensions().get::<SpanFields>()
                            && !fields.is_empty()
                        {
                            entry.insert("fields".into(), fields.clone().into());
                        }
                        entry.into()
                    })
                    .collect()
            })
            .unwrap_or_default();
        if !spans.is_empty() {
            line.insert("spans".into(), spans.into());
        }
        if let Some(file) = metadata.file() {
            line.insert("file".into(), file.into());
        }
        if let Some(number) = metadata.line() {
            line.insert("line".into(), number.into());
        }
        if let Ok(text) = serde_json::to_string(&line) {
            self.sink.trace(text.as_str().into());
        }
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity: write them as strings.
        let json = serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number);
        self.0.insert(field.name().into(), json);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
}
