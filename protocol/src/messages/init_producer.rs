//! A new producer id, for idempotent produce. Ids are never given twice.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::message;
use crate::error::DecodeError;
use crate::generated::wire;
use crate::ids::{ProducerEpoch, ProducerId};

/// Asks for a producer id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitProducerRequest {}

/// The id, and the epoch to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitProducerResponse {
    /// The id; never 0.
    pub producer: ProducerId,
    /// The first epoch.
    pub epoch: ProducerEpoch,
}

message!(InitProducerRequest -> InitProducerResponse, InitProducer);

impl InitProducerRequest {
    #[expect(clippy::unused_self, reason = "the form of all messages")]
    fn write<'b>(
        self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::InitProducerRequest<'b>> {
        wire::InitProducerRequest::create(builder, &wire::InitProducerRequestArgs {})
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of all messages")]
    fn read(_: wire::InitProducerRequest<'_>) -> Result<Self, DecodeError> {
        Ok(Self {})
    }
}

impl InitProducerResponse {
    fn write<'b>(
        self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::InitProducerResponse<'b>> {
        let args = wire::InitProducerResponseArgs {
            producer: self.producer.0,
            epoch: self.epoch.0,
        };
        wire::InitProducerResponse::create(builder, &args)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of all messages")]
    fn read(table: wire::InitProducerResponse<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            producer: ProducerId(table.producer()),
            epoch: ProducerEpoch(table.epoch()),
        })
    }
}
