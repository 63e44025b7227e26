-- Keys that may sign the images of a product, as the SHA-256 that a chip keeps in eFuse. No row: nothing
-- is asked of its images.
CREATE TABLE product_secure_boot (
    product TEXT NOT NULL,
    key_digest TEXT NOT NULL,
    PRIMARY KEY (product, key_digest)
);
