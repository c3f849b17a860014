//! Names as they stand in a message.
#![no_main]

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use libfuzzer_sys::fuzz_target;
use zones::want::PoolName;
use zones::{Domain, Zone};

fuzz_target!(|octets: &[u8]| {
    let domain: Domain = "hypernet.internal".parse().expect("a domain");
    let Ok(own) = Name::read(&mut BinDecoder::new(octets)) else {
        return;
    };
    let in_zone = |zone| own.clone().append_domain(domain.zone(zone));
    for name in [
        Ok(own.clone()),
        in_zone(Zone::Obj),
        in_zone(Zone::Tree),
        in_zone(Zone::Pool),
    ] {
        let Ok(name) = name else { continue };
        if let Some(means) = PoolName::of(&domain, &name) {
            assert_eq!(means.name(&domain), name);
        }
        let Ok(Some(address)) = domain.address_of(&name) else {
            continue;
        };
        assert_eq!(address, address.folded());
        // One name for an address in each zone, unless the address cannot be registered at all.
        let again = match domain.zone_of(&name) {
            Some(Zone::Obj) => domain.obj_name(&address),
            Some(Zone::Tree) => domain.tree_name(&address),
            Some(Zone::Pool | Zone::Apex) => panic!("{name} is no object's name"),
            None => domain.bare_name(&address),
        };
        if let Ok(again) = again {
            assert_eq!(again, name);
        }
    }
});
