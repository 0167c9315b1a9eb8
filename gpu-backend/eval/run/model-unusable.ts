/** A model that will not answer any question of this run: a wrong key, a name that nobody serves, an address where nobody listens. Ends the run. */
export class ModelUnusable extends Error {
  override readonly name = 'ModelUnusable';
}
