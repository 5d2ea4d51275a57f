"""Networks, one a file: a timm backbone, a head, an auxiliary head."""
