//! While the key provider is away, writes are refused at once and reads go on.

use std::sync::atomic::Ordering;

use super::*;
use crate::store::Disk;
use crate::vault::guarded::tests::{Moody, Shared};
use crate::vault::guarded::{Bounds, Guarded};

#[tokio::test]
async fn write_waits_for_the_key_provider_and_read_does_not() {
    let moody = Arc::new(Moody::default());
    let guarded = Guarded::start(Box::new(Shared(Arc::clone(&moody))), Bounds::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path()).unwrap());
    let place = Place::with_keys(Stub::start().await, dir, disk, Box::new(guarded));
    place.put("1.1", put(1)).await.unwrap();
    let before = place.properties("1.1").await;

    moody.away.store(true, Ordering::Relaxed);
    let provider = || place.objects.store().vault().provider();
    assert!(provider().generations().is_err());
    for at in ["1.1", "1.2"] {
        let refused = place.put(at, put(2)).await.unwrap_err();
        assert!(
            matches!(refused, WriteError::Unavailable { why, .. } if why.contains("pkcs11")),
            "{refused:?}"
        );
    }
    assert_eq!(place.properties("1.1").await, before);

    moody.away.store(false, Ordering::Relaxed);
    assert!(provider().generations().is_ok());
    place.put("1.1", put(2)).await.unwrap();
    assert_ne!(place.properties("1.1").await, before);
}
