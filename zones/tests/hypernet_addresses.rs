//! Real addresses, one a line, from the file that `HYPERNET_ADDRESSES` names, or beside the project.

use std::collections::HashMap;
use std::path::PathBuf;

use zones::{Address, Domain};

fn addresses() -> Option<Vec<Address>> {
    let path = std::env::var_os("HYPERNET_ADDRESSES").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../shared/data/hypernet/addresses.txt"
            ))
        },
        PathBuf::from,
    );
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no list of addresses, name one by HYPERNET_ADDRESSES");
        return None;
    };
    let read = |line: &str| line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    let addresses: Vec<Address> = text.lines().filter(|line| !line.is_empty()).map(read).collect();
    println!("{} addresses", addresses.len());
    assert!(!addresses.is_empty());
    Some(addresses)
}

#[test]
fn every_real_address_comes_back_from_its_obj_and_tree_name() {
    let domain: Domain = "hypernet.internal".parse().unwrap();
    for address in addresses().unwrap_or_default() {
        for name in [
            domain.obj_name(&address),
            domain.tree_name(&address),
            domain.bare_name(&address),
        ] {
            let name = name.unwrap_or_else(|error| panic!("{address}: {error}"));
            assert_eq!(domain.address_of(&name), Ok(Some(address.folded())), "{name}");
            // Through text as a resolver's user types it, in another case.
            let typed = name.to_string().to_ascii_uppercase().parse().unwrap();
            assert_eq!(domain.address_of(&typed), Ok(Some(address.folded())), "{typed}");
        }
    }
}

#[test]
fn no_two_real_addresses_share_a_name() {
    let domain: Domain = "hypernet.internal".parse().unwrap();
    let mut obj = HashMap::new();
    let mut tree = HashMap::new();
    for address in addresses().unwrap_or_default() {
        let name = domain.obj_name(&address).unwrap().to_lowercase();
        if let Some(other) = obj.insert(name, address.clone()) {
            panic!("{other} and {address} differ by case alone");
        }
        let name = domain.tree_name(&address).unwrap().to_lowercase();
        assert_eq!(tree.insert(name, address), None);
    }
}
