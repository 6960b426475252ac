//! The forms in which messages are written.

use std::io::{self, Write};

use catena_protocol::batch::RecordView;
use serde::{Serialize, Serializer};

use crate::cli::Output;

/// Writes one message.
pub(crate) fn write(
    out: &mut impl Write,
    form: Output,
    partition: u32,
    record: &RecordView<'_>,
) -> io::Result<()> {
    match form {
        Output::Lines => out.write_all(record.value.unwrap_or_default())?,
        Output::Json => serde_json::to_writer(&mut *out, &Message::new(partition, record))?,
    }
    out.write_all(b"\n")
}

/// A message as a JSON object. Bytes that are UTF-8 are strings; others are in hexadecimal, under
/// a name that says so. Null and empty differ.
#[derive(Debug, Serialize)]
struct Message<'a> {
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    #[serde(flatten)]
    key: Key<'a>,
    #[serde(flatten)]
    value: Value<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Header<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Key<'a> {
    Key(Option<&'a str>),
    KeyHex(Hex<'a>),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Value<'a> {
    Value(Option<&'a str>),
    ValueHex(Hex<'a>),
}

#[derive(Debug, Serialize)]
struct Header<'a> {
    name: &'a str,
    #[serde(flatten)]
    value: Value<'a>,
}

#[derive(Debug)]
struct Hex<'a>(&'a [u8]);

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble is a digit");
        let digits = self
            .0
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        serializer.serialize_str(&digits.collect::<String>())
    }
}

/// The bytes as text if they are, as they are if not.
fn text(bytes: Option<&[u8]>) -> Result<Option<&str>, Hex<'_>> {
    bytes.map_or(Ok(None), |bytes| {
        str::from_utf8(bytes).map(Some).map_err(|_| Hex(bytes))
    })
}

impl<'a> Value<'a> {
    fn new(bytes: Option<&'a [u8]>) -> Self {
        text(bytes).map_or_else(Self::ValueHex, Self::Value)
    }
}

impl<'a> Message<'a> {
    fn new(partition: u32, record: &RecordView<'a>) -> Self {
        let header = |header: catena_protocol::record::RecordHeader<'a>| Header {
            name: header.name,
            value: Value::new(header.value),
        };
        Self {
            partition,
            offset: record.offset.0,
            timestamp_ms: record.timestamp_ms,
            key: text(record.key).map_or_else(Key::KeyHex, Key::Key),
            value: Value::new(record.value),
            headers: record.headers.clone().map(header).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use catena_protocol::batch::{BatchBuilder, BatchOptions, BatchReader, Decompressor};
    use catena_protocol::record::{Record, RecordHeader};

    use super::*;

    fn written(form: Output, record: &Record<'_>) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(record).expect("the batch has room");
        let batch = builder.finish().expect("the batch is not empty");
        let mut decompressor = Decompressor::default();
        let mut reader = BatchReader::open(&batch, &mut decompressor).expect("the batch is good");
        let view = reader
            .next()
            .expect("one record")
            .expect("the record is good");
        let mut out = Vec::new();
        write(&mut out, form, 3, &view).expect("writing to memory succeeds");
        out
    }

    #[test]
    fn lines_are_the_bytes_of_the_value() {
        let record = Record::from_value(b"a\xFF\r");
        assert_eq!(written(Output::Lines, &record), b"a\xFF\r\n");
        assert_eq!(
            written(
                Output::Lines,
                &Record {
                    value: None,
                    ..record
                }
            ),
            b"\n"
        );
    }

    #[test]
    fn json_tells_null_empty_text_and_bytes_apart() {
        let headers = [RecordHeader {
            name: "h",
            value: Some(b"\x0F\xF0"),
        }];
        let record = Record {
            timestamp_ms: 9,
            key: None,
            value: Some(b""),
            headers: &headers,
            ..Record::from_value(b"")
        };
        let expected = "{\"partition\":3,\"offset\":0,\"timestamp_ms\":9,\"key\":null,\
             \"value\":\"\",\"headers\":[{\"name\":\"h\",\"value_hex\":\"0ff0\"}]}\n";
        assert_eq!(
            String::from_utf8(written(Output::Json, &record)).expect("text"),
            expected
        );
    }
}
