# The short form of `make torture`: writers, vendors and disasters for half a minute, with one seed;
# then everything must have taken effect once and in order. Promotions are in the long form and in 131 and 132:
# what a server pulled and sent on in the moments before it is lost nobody knows afterwards, and the long
# form cannot keep that from happening altogether.
use strict;
use warnings;

use SyncExt::Torture;
use Test::More;

my $seed = $ENV{SEED} // 15;
my $torture = SyncExt::Torture->new(seed => $seed, seconds => $ENV{SECONDS_EACH} // 30, writers => 3, promotions => $ENV{PROMOTIONS} // 0, say => sub { note(@_) });
my @wrong = eval { $torture->run };

push @wrong, $@ if $@;
is(join("\n", map { $wrong[$_] // () } 0 .. 30), '', "seed $seed: each committed change took effect once and in order");
if (@wrong)
{
	my ($id) = map { /([0-9a-f]{8}-[0-9a-f-]{27})/ } @wrong;
	diag($_) foreach $torture->try('TABLE sync._unfinished'), $id ? SyncExt::Torture::Judge::dossier($torture, $id) : ();
}
cmp_ok($torture->{changes} // 0, '>', 100, 'of which there were some');
$torture->tell('stop');
$torture->node->stop('immediate');
done_testing();
