# What goes wrong in a month: a table of faults. Each kind names
#
#   from    where its records come from: a query whose rows have n (a customer's place in the plan),
#           records (all names that breaks may know the record by: its id in the hub, which is another
#           one in each run, then a name that is the plan's) and whatever plant() wants
#   plant   does the damage where it would be done in life: at billing's desk, in the ERP's database,
#           in the hub past its triggers
#   found   the kinds of break, or rules, of which one at least must be found
#   also    what may be found with it
#   repair  by kind of break, the remedy that sync.repair() is asked for, or [remedy, options, the round
#           that it waits for], options also as a function of the row; of one side, about one field: billing:invoice.amount_differs/total_amount
#   remedy  what a person does where that is not enough: by which other functions of the hub (by), or at
#           whose desk, and what (desk)
#
# A kind of break is written OBJECT.KIND, as in invoice.missing_there; a rule by its name.
package SyncExt::Month::Faults;

use strict;
use utf8;
use warnings;

use SyncExt::Month::Faults::Books;
use SyncExt::Month::Faults::Vendors;
use Time::HiRes qw(sleep);

sub new
{
	my ($class, $month) = @_;
	my $self = bless { month => $month, planted => [], used => {}, at => {} }, $class;

	$self->{kinds} = [ SyncExt::Month::Faults::Vendors::kinds($month), SyncExt::Month::Faults::Books::kinds($month) ];
	return $self;
}

sub planted { return @{ $_[0]{planted} } }

# Kind after kind, round after round, until there are enough; each at a customer and at records of its own:
# one break about two faults would be counted for one of them.
sub plant
{
	my ($self) = @_;
	my $month = $self->{month};
	my @open = @{ $self->{kinds} };

	while (@open && @{ $self->{planted} } < $month->{faults})
	{
		@open = grep { @{ $self->{planted} } >= $month->{faults} || $self->plant_one($_) } @open;
	}
	my %kinds = map { $_->{name} => 1 } $self->planted;
	$month->is(scalar $self->planted, $month->{faults}, "$month->{faults} faults of " . keys(%kinds) . ' kinds are planted');
	return;
}

# False when no record is left that could have this fault.
sub plant_one
{
	my ($self, $kind) = @_;
	my $month = $self->{month};
	my $used = join ',', sort { $a <=> $b } keys %{ $self->{used} };
	my $records = join ',', map { qq("$_") } sort keys %{ $self->{at} };
	my ($row) = @{ $month->rows("SELECT f.* FROM ($kind->{from}) f WHERE f.n <> ALL ('{$used}') AND NOT f.records ?| '{$records}'
		ORDER BY month.r('fault $kind->{name} ' || (f.records ->> 1)) LIMIT 1") };

	return 0 if !$row;
	$self->{used}{ $row->{n} } = 1;
	$self->{at}{$_} = 1 foreach grep { defined } @{ $row->{records} };
	$kind->{plant}->($row);
	sleep 0.2;
	push @{ $self->{planted} }, { %$kind, row => $row, records => $row->{records}, seen => [] };
	return 1;
}

1;
