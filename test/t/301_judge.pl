# What the judge of the torture test lets pass, and what not, from effects that are made up.
use strict;
use warnings;

use SyncExt::Torture::Judge;
use Test::More;

# Effects by their words: '3' is change 3 a moment later, '|' stands for the standby that took over.
sub judged
{
	my ($told, %record) = @_;
	my ($at, @took_over, @effects) = (1000);

	foreach my $word (split / /, $told)
	{
		$at += 10;
		push @took_over, $at if $word eq '|';
		push @effects, { kind => $record{upserts} ? 'upsert' : @effects ? 'update' : 'create', n => $word, at => $at, key => "k$word" } if $word =~ /^\d+$/;
		push @effects, { kind => 'create', n => $1, at => $at, key => "k$word" } if $word =~ /^new(\d+)$/;
		push @effects, { kind => 'delete', at => $at } if $word eq 'delete';
	}
	my $r = { object => 'customer', versions => [ 1 .. 6 ], %record };
	return join '; ', map { s/^crm: \w+ id: //r =~ s/ \(wrote .*//r } SyncExt::Torture::Judge::wrong_record('crm', 'id', $r, \@took_over, @effects);
}

is(judged('1 2 3 4 5 6'), '', 'once and in order');
is(judged('1 4 6'), '', 'merged');
is(judged('1 5 6 5 6'), 'change 5 after change 6', 'an earlier change again');
is(judged('1 5 6 | 5 6'), '', 'a standby that took over repeats what sets a state, in order');
is(judged('1 5 6 | 6'), '', 'or the newest of it');
is(judged('1 5 6 | 6 5'), 'change 5 after change 6; ends with change 5 of 6', 'not out of order');
is(judged('1 5 6 | 5'), 'ends with change 5 of 6', 'not up to a state of before');
is(judged('1 4 6 | 5 6'), '', 'also what the lost server had merged into the newest');
like(judged('1 2 3 4 6 | 5 6', object => 'subscription'), qr/change 5, which is no repetition, after change 6/, 'but documents are never merged');
is(judged('1 4 5 | 5 6 5 6'), 'change 5 after change 6', 'once');
is(judged('1 3 5 | 3 5 | 3 5 6'), '', 'each that takes over');
is(judged('1 5 6 delete | 6', gone => 1), 'update after its delete', 'never what is deleted');
is(judged('1 new1 6'), 'was made twice', 'nothing is made twice');
is(judged('1 6 | new1 6'), 'was made twice', 'what was made is looked up');
is(judged('1 6 delete | new1 6 delete', gone => 1), '', '… and not found if it was deleted as well: that ends so once more');
is(judged('1 5 6 delete | 6 delete', gone => 1, upserts => 1), '', 'where each state is an upsert, a repetition makes it anew and deletes it again');
is(judged('1 5 6 delete 6 delete', gone => 1, upserts => 1), 'upsert after its delete; delete after its delete', 'after a takeover only');
is(judged('1 5 6 delete | 6', gone => 1, upserts => 1), 'is still there', 'and always');
is(judged('1 7'), 'change 7 was never committed; ends with change 7 of 6', 'what was never written');
is(judged('1 2 3 5 6', object => 'subscription'), 'change 4 was never sent', 'documents: each change');

sub keys_judged
{
	my (@effects) = @_;
	return join '; ', SyncExt::Torture::Judge::wrong_keys([ { key => 'k', refused => [] } ],
		[ map { { idempotency_key => 'k', path => '/v1/customers/c', time_ms => $_->[1], key_since_ms => $_->[0] } } @effects ], []);
}

is(keys_judged([ 1000, 1010 ]), '', 'a key that was used once');
is(keys_judged([ 1000, 1700 ], [ 12_050, 12_060 ]), '', 'a key that was used again when its life was over, its first effect having come late');
like(keys_judged([ 1000, 1010 ], [ 1000, 1020 ]), qr/executed twice in one life, within 10 ms/, 'a key that was executed twice while it lived');

# A key that was refused once; the standby took over at 5000. attempts: those on record, [when, outcome].
sub refused
{
	my ($since, $at, %option) = @_;
	my $endpoint = $option{endpoint} // 'POST /v1/customers/cus_1';
	my %key = (key => 'k', endpoint => $endpoint, refused => [ [ $since, $at, $option{refused} // $endpoint ] ]);
	my @attempts = map { { key => 'k', at => $_->[0], outcome => $_->[1] } } @{ $option{attempts} // [] };

	return join '; ', map { s/ \(.*//r } SyncExt::Torture::Judge::wrong_keys([ \%key ], [], [5000], @attempts);
}

my $two = 'key k stood for two requests';

is(refused(4000, 6000), '', 'a key that a lost server had spent on another request');
is(refused(4000, 6000, attempts => [ [ 6000, 'rejected' ] ]), '', '… which the one that took over hears');
is(refused(4000, 6000, attempts => [ [ 5900, undef ], [ 6000, 'rejected' ] ]), '', '… at its second try, when the first was not answered');
is(refused(4000, 4500), $two, 'before that a key is one request');
is(refused(6000, 6500), $two, 'and afterwards, too');
is(refused(4000, 6000, attempts => [ [ 4000, undef ], [ 6000, 'rejected' ] ]), $two, 'and where the attempt was known');
is(refused(4000, 6000, endpoint => 'POST /v1/customers'), $two, 'what makes a record is looked up first');
is(refused(4000, 6000, refused => 'POST /v1/customers/cus_2'), $two, 'a record stays the same record');
is(refused(4000, 6000, attempts => [ [ 5900, 'rejected' ], [ 6000, undef ] ]), 'key k was used again after it had been refused', 'a refusal that was heard is heeded');
done_testing();
