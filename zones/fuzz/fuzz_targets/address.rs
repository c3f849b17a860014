//! Texts that people and programs give as addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zones::{Address, Domain};

fuzz_target!(|text: &str| {
    let domain: Domain = "hypernet.internal".parse().expect("a domain");
    let Ok(address) = text.parse::<Address>() else { return };
    assert_eq!(address.as_str(), text);
    assert_eq!(address.parts().count(), address.depth());
    if let Some(parent) = address.parent() {
        assert!(parent.covers(&address) && parent < address);
    }
    if domain.check(&address).is_err() {
        return;
    }
    for name in [
        domain.obj_name(&address),
        domain.tree_name(&address),
        domain.bare_name(&address),
    ] {
        let name = name.expect("it was checked");
        assert_eq!(domain.address_of(&name), Ok(Some(address.folded())));
    }
});
