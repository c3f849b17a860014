//! What becomes of an object whose copy is damaged.

use std::os::unix::fs::FileExt;

use super::*;

/// Turns an octet of one part of an object on disk.
fn turn(place: &Place, at: &str, part: crate::vault::Part, octet: u64) {
    let entry = place.objects.current(&address(at)).unwrap();
    let extent = entry.stream(part).unwrap().extents[0];
    let path = place.dir.path().join(format!("volumes/{:04}", extent.volume));
    let volume = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut found = [0];
    volume.read_exact_at(&mut found, extent.offset() + octet).unwrap();
    volume.write_all_at(&[found[0] ^ 1], extent.offset() + octet).unwrap();
}

#[tokio::test]
async fn damaged_object_is_refused_whole_until_its_damaged_part_is_written_anew() {
    let place = Place::new().await;
    let first = Put {
        body: Some(place.body("3.1", &vec![7; 400_000]).await),
        ..super::put(1)
    };
    place.put("3.1", first).await.unwrap();
    turn(&place, "3.1", crate::vault::Part::Body, 5);
    let reading = place.objects.read(&address("3.1")).await.unwrap();
    // The first piece is read before the answer begins.
    let refused = reading.body(0..400_000).await.err().unwrap();
    assert!(
        matches!(refused, crate::store::ReadError::Damaged { chunk: 0, .. }),
        "{refused:?}"
    );
    // Neither the properties nor what is whole of the body.
    let Err(Miss::Damaged { what }) = place.objects.read(&address("3.1")).await else {
        panic!("a damaged object is shown");
    };
    assert!(what.contains("body of 3.1 is damaged at chunk 0"), "{what}");
    let figures = place.objects.figures();
    assert_eq!((figures.unreadable, figures.errors), (1, 1));
    drop(reading);
    let put = Put {
        body: Some(place.body("3.1", b"anew").await),
        ..super::put(2)
    };
    place.put("3.1", put).await.unwrap();
    let reading = place.objects.read(&address("3.1")).await.unwrap();
    let octets: Vec<Bytes> = reading.body(0..4).await.unwrap().try_collect().await.unwrap();
    assert_eq!(octets.concat(), b"anew");
    assert_eq!(place.objects.figures().unreadable, 0);
}

#[tokio::test]
async fn damaged_object_can_be_deleted() {
    let place = Place::new().await;
    let first = Put {
        body: Some(place.body("3.1", &[7; 4000]).await),
        ..super::put(1)
    };
    place.put("3.1", first).await.unwrap();
    turn(&place, "3.1", crate::vault::Part::Body, 5);
    let reading = place.objects.read(&address("3.1")).await.unwrap();
    assert!(reading.body(0..4000).await.is_err());
    drop(reading);
    place.objects.delete(&address("3.1"), delete()).await.unwrap();
    assert!(matches!(place.objects.read(&address("3.1")).await, Err(Miss::Deleted)));
    assert_eq!(place.objects.store().damaged(), []);
}
