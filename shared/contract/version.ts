/** The product's, as in package.json; a test compares them. */
export const PRODUCT = { name: 'mantis-edge', version: '0.1.0' } as const;
