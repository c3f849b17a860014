//! What a client can do to one object.

use bytes::Bytes;
use http::Method;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use zones::Address;

use crate::access::range::RangeRequest;
use crate::access::{HYPERNET_EPOCH, HYPERNET_SIZE, HYPERNET_TYPE};
use crate::client::body::{BodyReader, Upload};
use crate::client::error::ClientError;
use crate::client::locate::Purpose;
use crate::client::request::{Call, Reply, with_expectation};
use crate::client::words::{Object, PutObject, Stat, WriteOptions, Written};
use crate::client::{Client, multipart};

impl Client {
    /// Reads an object without its body.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; [`ClientError::Absent`] also for an object that this client may not read.
    pub async fn get(&self, address: &Address) -> Result<Object, ClientError> {
        let reply = self
            .call(&Call::new(Method::GET, address, "", Purpose::Reading))
            .await?;
        reply.json()
    }

    /// As [`Client::get`], with the properties in one version of the object's type: so an application goes on that knows that
    /// version alone.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; a refusal (406) where no steps lead to that version.
    pub async fn get_in_schema(&self, address: &Address, version: u32) -> Result<Object, ClientError> {
        let tail = format!("?schema={version}");
        let reply = self
            .call(&Call::new(Method::GET, address, tail, Purpose::Reading))
            .await?;
        reply.json()
    }

    /// Reads what an object is, without properties and body.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn stat(&self, address: &Address) -> Result<Stat, ClientError> {
        let reply = self
            .call(&Call::new(Method::HEAD, address, "", Purpose::Reading))
            .await?;
        let tag = reply.tag()?;
        let missing = || reply.strange("an object without its Hypernet headers");
        let text = |name| reply.text(name).ok_or_else(missing);
        Ok(Stat {
            address: address.clone(),
            kind: text(&HYPERNET_TYPE)?.parse().map_err(|_| missing())?,
            schema: tag.schema,
            epoch: text(&HYPERNET_EPOCH)?.parse().map_err(|_| missing())?,
            revision: tag.revision,
            size: text(&HYPERNET_SIZE)?.parse().map_err(|_| missing())?,
            server: reply.server.to_string(),
        })
    }

    /// Begins to read a body, or a range of it.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`ClientError::Range`] when no octet of the range exists.
    pub async fn get_body(&self, address: &Address, range: Option<RangeRequest>) -> Result<BodyReader, ClientError> {
        let reply = self.call(&Call::read_body(address, range)).await?;
        BodyReader::new(self.clone(), address.clone(), reply)
    }

    /// Writes type and properties; creates the object if there is none. Its body stays.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn put(
        &self,
        address: &Address,
        object: &PutObject,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        let call = Call::new(Method::PUT, address, "", Purpose::Creating)
            .header(CONTENT_TYPE, "application/json")
            .payload(json(object).into());
        self.write(call, options).await
    }

    /// Writes the body; creates the object if there is none. Its properties stay.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn put_body(
        &self,
        address: &Address,
        body: Upload,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        self.learn_owner_first(address, &body).await?;
        let mut call = Call::new(Method::PUT, address, "/body", Purpose::Creating)
            .header(CONTENT_TYPE, "application/octet-stream")
            .payload(body);
        if let Some(kind) = &options.kind {
            call = call.header(HYPERNET_TYPE, &kind.to_string());
        }
        self.write(call, options).await
    }

    /// Writes properties and body in one step: readers see both or neither.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn put_both(
        &self,
        address: &Address,
        object: &PutObject,
        body: Upload,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        self.learn_owner_first(address, &body).await?;
        // 128 random bits: no body holds them by chance.
        let boundary = format!("{:032x}", rand::random::<u128>());
        let call = Call::new(Method::PUT, address, "", Purpose::Creating)
            .header(CONTENT_TYPE, &format!("multipart/form-data; boundary={boundary}"))
            .payload(body.between(multipart::frame(&boundary, &json(object), true)));
        self.write(call, options).await
    }

    /// Deletes an object, for ever: its address is not used again.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn delete(&self, address: &Address, options: &WriteOptions) -> Result<(), ClientError> {
        let call = Call::new(Method::DELETE, address, "", Purpose::Existing);
        let call = with_expectation(call, options.expect).write_id(options.write_id);
        self.call(&call).await?;
        Ok(())
    }

    async fn write(&self, call: Call, options: &WriteOptions) -> Result<Written, ClientError> {
        let call = with_expectation(call, options.expect).write_id(options.write_id);
        let reply: Reply = self.call(&call).await?;
        let mut written: Written = reply.json()?;
        written.server = reply.server.to_string();
        Ok(written)
    }

    /// A stream can be sent once, so the owner must be known before its first octet leaves.
    async fn learn_owner_first(&self, address: &Address, body: &Upload) -> Result<(), ClientError> {
        if body.is_once() {
            // Where a write would go: not to a server that holds a copy of it.
            let call = Call::new(Method::HEAD, address, "", Purpose::Existing).header(CACHE_CONTROL, "no-cache");
            match self.call(&call).await {
                Ok(_) | Err(ClientError::Absent { .. } | ClientError::Deleted { .. } | ClientError::Refused { .. }) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn json(object: &PutObject) -> Bytes {
    serde_json::to_vec(object).expect("an object of text keys").into()
}
