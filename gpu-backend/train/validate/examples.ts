import type { Skill } from '../../../shared/contract/datasets.ts';
import { Skill as Skills } from '../../../shared/contract/datasets.ts';
import { u8, u16, u32 } from './columns.ts';
import { BANDS } from './text-signature.ts';

export interface ExampleFacts {
  /** Which list of data, by its position among all. */
  readonly list: number;
  /** Index into the list's files, and line in that file. */
  readonly file: number;
  readonly line: number;
  readonly tokens: number;
  readonly supervisedTokens: number;
  readonly imageTokens: number;
  readonly turns: number;
  readonly skill: Skill | null;
  /** Numbers of its pictures, in reading order. */
  readonly pictures: readonly number[];
  /** Keys under which near ones are found. */
  readonly bands: Uint32Array;
}

/** What is known of every usable example, about 70 bytes and 4 a picture each. Numbered through all lists, in the order of the data. */
export class ExampleTable {
  private readonly lists = u8();
  private readonly files = u16();
  private readonly lines = u32();
  private readonly tokenCounts = u32();
  private readonly supervised = u32();
  private readonly imageTokenCounts = u32();
  private readonly turnCounts = u16();
  private readonly skillNumbers = u8();
  private readonly pictureEnds = u32();
  private readonly pictureNumbers = u32();
  private readonly bandKeys = u32();

  get length(): number {
    return this.lines.length;
  }

  /** @returns its number */
  push(facts: ExampleFacts): number {
    this.lists.push(facts.list);
    this.files.push(facts.file);
    this.lines.push(facts.line);
    this.tokenCounts.push(facts.tokens);
    this.supervised.push(facts.supervisedTokens);
    this.imageTokenCounts.push(facts.imageTokens);
    this.turnCounts.push(Math.min(facts.turns, 65_535));
    this.skillNumbers.push(facts.skill === null ? 0 : Skills.options.indexOf(facts.skill) + 1);
    for (const picture of facts.pictures) this.pictureNumbers.push(picture);
    this.pictureEnds.push(this.pictureNumbers.length);
    for (const band of facts.bands) this.bandKeys.push(band);
    return this.lines.length - 1;
  }

  list = (e: number): number => this.lists.get(e);
  file = (e: number): number => this.files.get(e);
  line = (e: number): number => this.lines.get(e);
  tokens = (e: number): number => this.tokenCounts.get(e);
  supervisedTokens = (e: number): number => this.supervised.get(e);
  imageTokens = (e: number): number => this.imageTokenCounts.get(e);
  turns = (e: number): number => this.turnCounts.get(e);
  band = (e: number, band: number): number => this.bandKeys.get(e * BANDS + band);

  skill(e: number): Skill | null {
    return Skills.options[this.skillNumbers.get(e) - 1] ?? null;
  }

  pictureCount(e: number): number {
    return this.pictureEnds.get(e) - (e === 0 ? 0 : this.pictureEnds.get(e - 1));
  }

  pictures(e: number): number[] {
    const end = this.pictureEnds.get(e);
    const start = e === 0 ? 0 : this.pictureEnds.get(e - 1);
    return Array.from({ length: end - start }, (_, i) => this.pictureNumbers.get(start + i));
  }
}
