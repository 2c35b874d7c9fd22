package index

// AsQdrant makes a client of the embedded index use nothing that Qdrant has not.
func (c *Client) AsQdrant() { c.nibbles = false }
