//! The codec of both services: tonic's for protobuf, but bytes that do not decode are the sender's mistake.
//!
//! tonic's own answers INTERNAL to them, which reads as a bug of the server and invites retries.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::ProstEncoder;
use tonic_types::{ErrorDetails, StatusExt as _};

/// Encodes messages of type `T` and decodes messages of type `U`. The generated code names it.
#[derive(Debug)]
pub struct Codec<T, U> {
    messages: PhantomData<fn(T) -> U>,
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self { messages: PhantomData }
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder { message: PhantomData }
    }
}

/// Decodes messages of type `U`. What does not decode is `INVALID_ARGUMENT` with reason `MALFORMED`, not kept.
#[derive(Debug)]
pub struct MessageDecoder<U> {
    message: PhantomData<fn() -> U>,
}

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buf).map(Some).map_err(|error| malformed(&error))
    }
}

fn malformed(error: &prost::DecodeError) -> Status {
    let kept = [("kept".to_owned(), "no".to_owned())];
    Status::with_error_details(
        Code::InvalidArgument,
        format!("request does not decode as protobuf: {error}"),
        ErrorDetails::with_error_info("MALFORMED", "steadfast", kept),
    )
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, Bytes, BytesMut};
    use http_body_util::Full;
    use tonic::codec::{Codec as _, Streaming};

    use super::*;
    use crate::proto::{GetProfileRequest, GetProfileResponse};

    /// Reads one message as a server does, from a body with `message` in a gRPC frame.
    async fn read(message: &[u8]) -> Result<Option<GetProfileRequest>, Status> {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.put_slice(message);
        let decoder = Codec::<GetProfileResponse, GetProfileRequest>::default().decoder();
        Streaming::new_request(decoder, Full::<Bytes>::new(frame.freeze()), None, None).message().await
    }

    #[tokio::test]
    async fn a_message_is_decoded() {
        let request = GetProfileRequest { site: "acme".into(), user: "u1".into(), include_occurred_at: true };
        assert_eq!(read(&request.encode_to_vec()).await.unwrap(), Some(request));
    }

    #[tokio::test]
    async fn what_does_not_decode_is_the_callers_mistake() {
        for bytes in [&[0xff; 9][..], b"\x0a\x05ab", b"\x0a\x01\xff", b"\x08\x01"] {
            let status = read(bytes).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{bytes:?}");
            assert!(status.message().starts_with("request does not decode as protobuf: "), "{status:?}");
            let info = status.get_error_details().error_info().cloned().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), ("MALFORMED", "steadfast"));
            assert_eq!(info.metadata.get("kept").map(String::as_str), Some("no"));
        }
    }
}
